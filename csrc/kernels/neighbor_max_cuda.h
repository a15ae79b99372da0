// neighbor_max on a GPU: the contract of neighbor_max.h, and the CPU's bits. An index outside [0, num_rows] stops the
// process's CUDA work with a device-side assertion: to raise an error would mean to wait for the GPU.
#pragma once

#include <cstddef>

#include "neighbor_max.h"

namespace pcseg {

void neighbor_max_cuda(const NeighborMax<float>& a, void* stream);
void neighbor_max_cuda(const NeighborMax<double>& a, void* stream);

// num_lists below 2^31.
size_t neighbor_max_backward_workspace_bytes(int64_t num_lists, int64_t num_rows, int64_t channels);
void neighbor_max_backward_cuda(const NeighborMaxBackward<float>& a, void* workspace, void* stream);
void neighbor_max_backward_cuda(const NeighborMaxBackward<double>& a, void* workspace, void* stream);

}  // namespace pcseg
