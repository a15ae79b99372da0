// The end of a vector attention in one pass: norm, ReLU, linear layer, softmax and the weighted sum.
#pragma once

#include "norm_linear.h"
#include "vector_attention.h"

namespace pcseg {

// attention_aggregate(norm_linear(rows)), with the linear layer's result for logits, which is never stored. norm.rows
// (num_query * num_neighbors, in_channels) has a row for each pair, also for those without neighbour, and all count for
// mean and var; norm.out_channels divides pairs.channels. pairs.key holds the values, pairs.query is not used.
template <class T>
struct NormAttention {
  NormLinear<T> norm;
  AttentionPairs<T> pairs;
};
template <class T>
struct NormAttentionGradients {
  const T* grad_out;            // (num_query, channels)
  NormLinearGradients<T> norm;  // its grad_out is not used
  AttentionPairGradients<T> pairs;
};

// out (num_query, channels). False: an index outside [0, num_key], which is taken for "none".
#define PCSEG_NORM_ATTENTION(T)                                                                          \
  PCSEG_KERNEL(bool norm_attention(const NormAttention<T>& a, T* out, const Parallel& parallel))         \
  PCSEG_KERNEL(void norm_attention_backward(const NormAttention<T>& a, const NormAttentionGradients<T>& g, \
                                            const Parallel& parallel))
PCSEG_NORM_ATTENTION(float)
PCSEG_NORM_ATTENTION(double)
#undef PCSEG_NORM_ATTENTION

template <class T>
bool run_norm_attention(const NormAttention<T>& a, T* out, const Parallel& parallel) {
  PCSEG_DISPATCH(norm_attention, a, out, parallel);
}
template <class T>
void run_norm_attention_backward(const NormAttention<T>& a, const NormAttentionGradients<T>& g,
                                 const Parallel& parallel) {
  PCSEG_DISPATCH(norm_attention_backward, a, g, parallel);
}

}  // namespace pcseg
