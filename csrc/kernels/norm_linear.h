// Norm, ReLU and a linear layer on many rows of few channels, in one pass.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// out[r, o] = bias[o] + sum over c of weight[o, c] * max(0, norm(rows)[r, c]),
// norm(x)[c] = norm_weight[c] * (x[c] - mean[c]) / sqrt(var[c] + eps) + norm_bias[c].
// of_batch: mean and the biased var are those of the rows; norm_linear writes them, and gradients go through them.
// rows (num_rows, in_channels), weight (out_channels, in_channels), out (num_rows, out_channels), dense and row-major;
// at least one channel in and out. Nothing depends on the threads.
template <class T>
struct NormLinear {
  const T* rows;
  const T* norm_weight;
  const T* norm_bias;
  T* mean;
  T* var;
  const T* weight;
  const T* bias;
  int64_t num_rows;
  int64_t in_channels;
  int64_t out_channels;
  double eps;
  bool of_batch;
};

// Each has the shape of what it belongs to.
template <class T>
struct NormLinearGradients {
  const T* grad_out;
  T* rows;
  T* norm_weight;
  T* norm_bias;
  T* weight;
  T* bias;
};

#define PCSEG_NORM_LINEAR(T)                                                                         \
  PCSEG_KERNEL(void norm_linear(const NormLinear<T>& a, T* out, const Parallel& parallel))           \
  PCSEG_KERNEL(void norm_linear_backward(const NormLinear<T>& a, const NormLinearGradients<T>& g,    \
                                         const Parallel& parallel))
PCSEG_NORM_LINEAR(float)
PCSEG_NORM_LINEAR(double)
#undef PCSEG_NORM_LINEAR

template <class T>
void run_norm_linear(const NormLinear<T>& a, T* out, const Parallel& parallel) {
  PCSEG_DISPATCH(norm_linear, a, out, parallel);
}
template <class T>
void run_norm_linear_backward(const NormLinear<T>& a, const NormLinearGradients<T>& g, const Parallel& parallel) {
  PCSEG_DISPATCH(norm_linear_backward, a, g, parallel);
}

}  // namespace pcseg
