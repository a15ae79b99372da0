// voxel_features on a GPU: the contract of voxel_features.h, and the CPU's bits. Rows of order outside [0, num_points)
// and labels below -1 stop the process's CUDA work with a device-side assertion: to raise an error would mean to wait
// for the GPU.
#pragma once

#include "voxel_features.h"

namespace pcseg {

template <class C, class F>
void voxel_features_cuda(const VoxelFeatures<C, F>& a, void* stream);

}  // namespace pcseg
