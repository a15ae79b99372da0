// Kernel point convolution: neighbour gather, influences, weighted sums and the product with the weights in one pass.
// Nothing of size (num_query, num_neighbors, kernel_points, channels) ever exists.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// out[m] = sum over kernel points k and neighbours j of query m of
//          modulations[m, k] * influence(support[j] - query[m], k) * feats[j] @ weights[k]
// influence(y, k) = max(0, 1 - |y - kernel_points[k] - kernel_offsets[m, k]| / sigma)
//
// query (num_query, dim), support (num_support, dim), neighbors (num_query, num_neighbors) with num_support for "none",
// feats (num_support, in_channels), weights (kernel_size, in_channels, out_channels), kernel_points (kernel_size, dim),
// kernel_offsets (num_query, kernel_size, dim) or null, modulations (num_query, kernel_size) or null.
// dim 1 to 3; num_query and num_support below 2^31. All arrays are dense and row-major.
template <class T>
struct KpConv {
  const T* query;
  const T* support;
  const int64_t* neighbors;
  const T* feats;
  const T* weights;
  const T* kernel_points;
  const T* kernel_offsets;
  const T* modulations;
  int64_t num_query;
  int64_t num_support;
  int64_t num_neighbors;
  int64_t dim;
  int64_t kernel_size;
  int64_t in_channels;
  int64_t out_channels;
  T sigma;
};

// Gradients of the sum of grad_out (num_query, out_channels) * out; each has the shape of what it belongs to, and is
// null where it is not wanted. An influence's gradient where its distance is 0 is 0. None depends on the threads.
template <class T>
struct KpConvGradients {
  const T* grad_out;
  T* feats;
  T* weights;
  T* kernel_offsets;
  T* modulations;
};

// out (num_query, out_channels). False: an index lay outside [0, num_support], and was taken for "none".
PCSEG_KERNEL(bool kpconv(const KpConv<float>& a, float* out, const Parallel& parallel))
PCSEG_KERNEL(bool kpconv(const KpConv<double>& a, double* out, const Parallel& parallel))
PCSEG_KERNEL(void kpconv_backward(const KpConv<float>& a, const KpConvGradients<float>& g, const Parallel& parallel))
PCSEG_KERNEL(void kpconv_backward(const KpConv<double>& a, const KpConvGradients<double>& g, const Parallel& parallel))

template <class T>
bool run_kpconv(const KpConv<T>& a, T* out, const Parallel& parallel) {
  PCSEG_DISPATCH(kpconv, a, out, parallel);
}
template <class T>
void run_kpconv_backward(const KpConv<T>& a, const KpConvGradients<T>& g, const Parallel& parallel) {
  PCSEG_DISPATCH(kpconv_backward, a, g, parallel);
}

}  // namespace pcseg
