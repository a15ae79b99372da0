// local_geometry on a GPU: the contract of local_geometry.h. An index outside [0, num_rows] stops the process's CUDA
// work with a device-side assertion: to raise an error would mean to wait for the GPU.
#pragma once

#include "local_geometry.h"

namespace pcseg {

void local_geometry_cuda(const LocalGeometry<float>& a, void* stream);
void local_geometry_cuda(const LocalGeometry<double>& a, void* stream);

}  // namespace pcseg
