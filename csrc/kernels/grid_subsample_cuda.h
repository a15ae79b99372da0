// grid_subsample on a GPU: the contract of grid_subsample.h. Waits for the GPU twice: for the extent of the cells,
// which decides how many bits to sort by, and for the number of voxels, which is the shape of the result.
#pragma once

#include <cstddef>

#include "grid_subsample.h"

namespace pcseg {

template <class T>
size_t grid_subsample_workspace_bytes(const GridVoxels<T>& a);
// Returns what the CPU's grid_voxels does.
int64_t grid_voxels_cuda(const GridVoxels<float>& a, void* workspace, void* stream);
int64_t grid_voxels_cuda(const GridVoxels<double>& a, void* workspace, void* stream);
// On the same workspace, after grid_voxels_cuda.
void grid_order_cuda(const GridOrder& a, void* workspace, void* stream);

}  // namespace pcseg
