// A matrix product of many rows with a small matrix, and its gradients: what unary layers do.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// out[r, o] = sum over c of rows[r, c] * matrix[c * in_step + o * out_step]; one of the steps is 1.
// rows (num_rows, in_channels), out (num_rows, out_channels), dense and row-major.
template <class T>
struct Linear {
  const T* rows;
  const T* matrix;
  T* out;
  int64_t num_rows;
  int64_t in_channels;
  int64_t out_channels;
  int64_t in_step;
  int64_t out_step;
};

// out[o, c] = sum over r of left[r, o] * right[r, c]: the gradient of a weight (left_channels, right_channels).
template <class T>
struct LinearWeights {
  const T* left;
  const T* right;
  T* out;
  int64_t num_rows;
  int64_t left_channels;
  int64_t right_channels;
};

// Neither depends on the threads.
PCSEG_KERNEL(void linear(const Linear<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void linear(const Linear<double>& a, const Parallel& parallel))
PCSEG_KERNEL(void linear_weights(const LinearWeights<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void linear_weights(const LinearWeights<double>& a, const Parallel& parallel))

template <class T>
void run_linear(const Linear<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(linear, a, parallel);
}
template <class T>
void run_linear_weights(const LinearWeights<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(linear_weights, a, parallel);
}

}  // namespace pcseg
