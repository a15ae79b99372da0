// gather_neighbors on a GPU: the contract of gather_neighbors.h, and the CPU's bits. An index outside [0, num_rows]
// stops the process's CUDA work with a device-side assertion: to raise an error would mean to wait for the GPU.
#pragma once

#include <cstddef>

#include "gather_neighbors.h"

namespace pcseg {

void gather_neighbors_cuda(const GatherNeighbors<float>& a, void* stream);
void gather_neighbors_cuda(const GatherNeighbors<double>& a, void* stream);

// num_entries below 2^31.
size_t gather_neighbors_backward_workspace_bytes(int64_t num_entries, int64_t num_rows);
void gather_neighbors_backward_cuda(const GatherNeighborsBackward<float>& a, void* workspace, void* stream);
void gather_neighbors_backward_cuda(const GatherNeighborsBackward<double>& a, void* workspace, void* stream);

}  // namespace pcseg
