// gaussian_filter on a GPU: the contract of gaussian_filter.h, and the CPU's bits; deterministic, without atomic
// additions. An index outside its range stops the process's CUDA work with a device-side assertion.
#pragma once

#include <cstddef>

#include "gaussian_filter.h"

namespace pcseg {

// Two rows of at most 64 channels for each lattice point, and the lists of the entries by lattice point: 36 bytes or so
// for each of the num_points * (dims + 1).
template <class T>
size_t gaussian_filter_workspace_bytes(const GaussianFilter<T>& a);
void gaussian_filter_cuda(const GaussianFilter<float>& a, void* workspace, void* stream);
void gaussian_filter_cuda(const GaussianFilter<double>& a, void* workspace, void* stream);

}  // namespace pcseg
