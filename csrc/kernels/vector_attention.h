// Vector attention of a point transformer: a query and the neighbours it lists meet channel by channel. Nothing of size
// (num_query, num_neighbors, channels) ever exists.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// The pairs of query m and its h-th neighbour j = neighbors[m, h]; pair (m, h) is number m * num_neighbors + h. Its
// position code is
//   delta[m, h, c] = position_bias[c] + sum over p of position[m, h, p] * position_weight[c, p]
// and its difference x[m, h, c] = query[m, c] - key[j, c] + delta[m, h, c].
//
// query (num_query, channels), key (num_key, channels), neighbors (num_query, num_neighbors) with num_key for "none",
// position (num_query, num_neighbors, position_channels), position_weight (channels, position_channels),
// position_bias (channels). Numbers of pairs and keys below 2^31; at least one channel. All arrays are dense and
// row-major. A pair without neighbour takes no part. An index outside [0, num_key] is taken for "none"; functions that
// return bool return false then. Nothing depends on the threads.
template <class T>
struct AttentionPairs {
  const T* query;
  const T* key;
  const int64_t* neighbors;
  const T* position;
  const T* position_weight;
  const T* position_bias;
  int64_t num_query;
  int64_t num_key;
  int64_t num_neighbors;
  int64_t channels;
  int64_t position_channels;
};

// Gradients, each with the shape of what it belongs to; all are written whole.
template <class T>
struct AttentionPairGradients {
  T* query;
  T* key;
  T* position;
  T* position_weight;
  T* position_bias;
};

// out[m, h, g] = bias[g] + sum over c of weight[g, c] * max(0, scale[c] * x[m, h, c] + shift[c]); 0 where there is no
// neighbour. scale, shift (channels), weight (out_channels, channels), bias (out_channels),
// out (num_query, num_neighbors, out_channels). At least one output channel.
template <class T>
struct AttentionRelation {
  AttentionPairs<T> pairs;
  const T* scale;
  const T* shift;
  const T* weight;
  const T* bias;
  int64_t out_channels;
};
template <class T>
struct AttentionRelationGradients {
  const T* grad_out;
  AttentionPairGradients<T> pairs;
  T* scale;
  T* shift;
  T* weight;
  T* bias;
};

// mean[c] and the biased var[c] of x over all pairs, summed in float64; 0 where there is no pair. Returns false as above.
template <class T>
struct AttentionStatistics {
  AttentionPairs<T> pairs;
  T* mean;
  T* var;
};
template <class T>
struct AttentionStatisticsGradients {
  const T* grad_mean;
  const T* grad_var;
  const T* mean;  // the results
  AttentionPairGradients<T> pairs;
};

// out[m, c] = sum over h of softmax over h of logits[m, h, c % weight_channels] * (key[j, c] + delta[m, h, c]), where
// `key` holds the values and `query` is not used. A query without neighbours gives 0.
// logits (num_query, num_neighbors, weight_channels), out (num_query, channels); weight_channels divides channels.
template <class T>
struct AttentionAggregate {
  AttentionPairs<T> pairs;
  const T* logits;
  int64_t weight_channels;
};
template <class T>
struct AttentionAggregateGradients {
  const T* grad_out;
  AttentionPairGradients<T> pairs;  // `query` is not used
  T* logits;
};

#define PCSEG_ATTENTION(T)                                                                                             \
  PCSEG_KERNEL(bool attention_relation(const AttentionRelation<T>& a, T* out, const Parallel& parallel))               \
  PCSEG_KERNEL(void attention_relation_backward(const AttentionRelation<T>& a, const AttentionRelationGradients<T>& g, \
                                                const Parallel& parallel))                                             \
  PCSEG_KERNEL(bool attention_statistics(const AttentionStatistics<T>& a, const Parallel& parallel))                   \
  PCSEG_KERNEL(void attention_statistics_backward(const AttentionPairs<T>& a,                                          \
                                                  const AttentionStatisticsGradients<T>& g, const Parallel& parallel)) \
  PCSEG_KERNEL(bool attention_aggregate(const AttentionAggregate<T>& a, T* out, const Parallel& parallel))             \
  PCSEG_KERNEL(void attention_aggregate_backward(const AttentionAggregate<T>& a,                                       \
                                                 const AttentionAggregateGradients<T>& g, const Parallel& parallel))
PCSEG_ATTENTION(float)
PCSEG_ATTENTION(double)
#undef PCSEG_ATTENTION

template <class T>
bool run_attention_relation(const AttentionRelation<T>& a, T* out, const Parallel& parallel) {
  PCSEG_DISPATCH(attention_relation, a, out, parallel);
}
template <class T>
void run_attention_relation_backward(const AttentionRelation<T>& a, const AttentionRelationGradients<T>& g,
                                     const Parallel& parallel) {
  PCSEG_DISPATCH(attention_relation_backward, a, g, parallel);
}
template <class T>
bool run_attention_statistics(const AttentionStatistics<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(attention_statistics, a, parallel);
}
template <class T>
void run_attention_statistics_backward(const AttentionPairs<T>& a, const AttentionStatisticsGradients<T>& g,
                                       const Parallel& parallel) {
  PCSEG_DISPATCH(attention_statistics_backward, a, g, parallel);
}
template <class T>
bool run_attention_aggregate(const AttentionAggregate<T>& a, T* out, const Parallel& parallel) {
  PCSEG_DISPATCH(attention_aggregate, a, out, parallel);
}
template <class T>
void run_attention_aggregate_backward(const AttentionAggregate<T>& a, const AttentionAggregateGradients<T>& g,
                                      const Parallel& parallel) {
  PCSEG_DISPATCH(attention_aggregate_backward, a, g, parallel);
}

}  // namespace pcseg
