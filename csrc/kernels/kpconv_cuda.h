// kpconv on a GPU: the contract of kpconv.h, up to the rounding of sums; no result depends on the order in which blocks
// run. An index outside [0, num_support] stops the process's CUDA work with a device-side assertion: to raise an error
// would mean to wait for the GPU.
#pragma once

#include <cstddef>

#include "kpconv.h"

namespace pcseg {

void kpconv_cuda(const KpConv<float>& a, float* out, void* stream);
void kpconv_cuda(const KpConv<double>& a, double* out, void* stream);

// num_query * num_neighbors below 2^31 where the gradient of feats is wanted.
template <class T>
size_t kpconv_backward_workspace_bytes(const KpConv<T>& a, const KpConvGradients<T>& g);
void kpconv_backward_cuda(const KpConv<float>& a, const KpConvGradients<float>& g, void* workspace, void* stream);
void kpconv_backward_cuda(const KpConv<double>& a, const KpConvGradients<double>& g, void* workspace, void* stream);

}  // namespace pcseg
