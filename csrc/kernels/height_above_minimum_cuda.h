// height_above_minimum on a GPU: the contract of height_above_minimum.h, and the CPU's bits. Indices that break it stop
// the process's CUDA work with a device-side assertion: to raise an error would mean to wait for the GPU.
#pragma once

#include <cstddef>

#include "height_above_minimum.h"

namespace pcseg {

template <class T>
size_t height_above_minimum_workspace_bytes(const HeightAboveMinimum<T>& a);
void height_above_minimum_cuda(const HeightAboveMinimum<float>& a, void* workspace, void* stream);
void height_above_minimum_cuda(const HeightAboveMinimum<double>& a, void* workspace, void* stream);

}  // namespace pcseg
