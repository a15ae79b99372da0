// neighbor_max and its gradient on a GPU; the contract is that of neighbor_max.h, with two differences: an index
// outside [0, num_rows] counts as missing, and the gradient's sums run in any order.
#pragma once

#include "neighbor_max.h"

namespace pcseg {

void neighbor_max_cuda(const NeighborMax<float>& a, void* stream);
void neighbor_max_cuda(const NeighborMax<double>& a, void* stream);

// grad_values must be 0 before.
void neighbor_max_backward_cuda(const NeighborMaxBackward<float>& a, void* stream);
void neighbor_max_backward_cuda(const NeighborMaxBackward<double>& a, void* stream);

}  // namespace pcseg
