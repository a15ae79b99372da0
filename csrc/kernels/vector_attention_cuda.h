// Vector attention on a GPU: the contract of vector_attention.h; sums differ from the CPU's by their order, which is
// fixed. An index outside [0, num_key] stops the process's CUDA work with a device-side assertion: to raise an error
// would mean to wait for the GPU.
#pragma once

#include <cstddef>

#include "vector_attention.h"

namespace pcseg {

template <class T>
void attention_relation_cuda(const AttentionRelation<T>& a, T* out, void* stream);
template <class T>
size_t attention_relation_backward_workspace_bytes(const AttentionRelation<T>& a);
template <class T>
void attention_relation_backward_cuda(const AttentionRelation<T>& a, const AttentionRelationGradients<T>& g,
                                      void* workspace, void* stream);

template <class T>
size_t attention_statistics_workspace_bytes(const AttentionStatistics<T>& a);
template <class T>
void attention_statistics_cuda(const AttentionStatistics<T>& a, void* workspace, void* stream);
template <class T>
size_t attention_statistics_backward_workspace_bytes(const AttentionPairs<T>& a);
template <class T>
void attention_statistics_backward_cuda(const AttentionPairs<T>& a, const AttentionStatisticsGradients<T>& g,
                                        void* workspace, void* stream);

template <class T>
size_t attention_aggregate_workspace_bytes(const AttentionAggregate<T>& a);
template <class T>
void attention_aggregate_cuda(const AttentionAggregate<T>& a, T* out, void* workspace, void* stream);
template <class T>
size_t attention_aggregate_backward_workspace_bytes(const AttentionAggregate<T>& a);
template <class T>
void attention_aggregate_backward_cuda(const AttentionAggregate<T>& a, const AttentionAggregateGradients<T>& g,
                                       void* workspace, void* stream);

}  // namespace pcseg
