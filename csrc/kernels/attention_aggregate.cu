#include <limits>

#include "attention_pairs_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

// probs = softmax of the logits over each query's neighbours, 0 where there is none. A thread a query and weight.
template <class T>
__global__ void __launch_bounds__(kThreads) softmax_kernel(AttentionAggregate<T> a, T* probs) {
  const int64_t width = a.weight_channels, places = a.pairs.num_neighbors;
  for (int64_t i = thread_in_grid(); i < a.pairs.num_query * width; i += threads_in_grid()) {
    const int64_t first = i / width * places, w = i % width;
    T most = -std::numeric_limits<T>::infinity(), sum = 0;
    for (int64_t e = first; e < first + places; ++e) {
      const T logit = a.logits[e * width + w];
      if (neighbor(a.pairs, e) >= 0 && logit > most) most = logit;
    }
    for (int64_t e = first; e < first + places; ++e) {
      const T power = neighbor(a.pairs, e) >= 0 ? std::exp(a.logits[e * width + w] - most) : T(0);
      probs[e * width + w] = power;
      sum += power;
    }
    for (int64_t e = first; e < first + places; ++e)
      if (neighbor(a.pairs, e) >= 0) probs[e * width + w] /= sum;
  }
}

// A thread a query and channel.
template <class T>
__global__ void __launch_bounds__(kThreads) collect_kernel(AttentionAggregate<T> a, const T* probs, T* out) {
  const AttentionPairs<T>& pairs = a.pairs;
  for (int64_t i = thread_in_grid(); i < pairs.num_query * pairs.channels; i += threads_in_grid()) {
    const int64_t m = i / pairs.channels, c = i % pairs.channels, w = c % a.weight_channels;
    T sum = 0;
    for (int64_t e = m * pairs.num_neighbors; e < (m + 1) * pairs.num_neighbors; ++e) {
      const int64_t j = neighbor(pairs, e);
      if (j >= 0)
        sum = fma(probs[e * a.weight_channels + w], pairs.key[j * pairs.channels + c] + delta(pairs, e, c), sum);
    }
    out[i] = sum;
  }
}

template <class T>
struct AggregateGradient {
  static constexpr bool kNorm = false;
  AttentionAggregate<T> a;
  const T *probs, *grad_out;

  __device__ T operator()(int64_t e, int64_t m, int64_t, int64_t c, T&, T&) const {
    return probs[e * a.weight_channels + c % a.weight_channels] * grad_out[m * a.pairs.channels + c];
  }
};

// logits' = probs * (products - sum over the neighbours of probs * products), where products are the sums of
// grad_out * (value + delta) over a weight's channels. On entry `logits` holds the probs. A thread a query and weight.
template <class T>
__global__ void __launch_bounds__(kThreads)
    logits_kernel(AttentionAggregate<T> a, const T* grad_out, T* products, T* logits) {
  const AttentionPairs<T>& pairs = a.pairs;
  const int64_t width = a.weight_channels, places = pairs.num_neighbors;
  for (int64_t i = thread_in_grid(); i < pairs.num_query * width; i += threads_in_grid()) {
    const int64_t m = i / width, w = i % width;
    T shared = 0;
    for (int64_t e = m * places; e < (m + 1) * places; ++e) {
      const int64_t j = neighbor(pairs, e);
      T product = 0;
      for (int64_t c = w; j >= 0 && c < pairs.channels; c += width)
        product = fma(grad_out[m * pairs.channels + c], pairs.key[j * pairs.channels + c] + delta(pairs, e, c), product);
      products[e * width + w] = product;
      shared = fma(logits[e * width + w], product, shared);
    }
    for (int64_t e = m * places; e < (m + 1) * places; ++e)
      logits[e * width + w] *= products[e * width + w] - shared;
  }
}

template <class T>
void softmax(const char* what, const AttentionAggregate<T>& a, T* probs, void* stream) {
  const int64_t rows = a.pairs.num_query * a.weight_channels;
  if (rows > 0) launch(what, softmax_kernel<T>, blocks_for(rows, kThreads), kThreads, 0, stream, a, probs);
}

template <class T>
int64_t num_weights(const AttentionAggregate<T>& a) {
  return a.pairs.num_query * a.pairs.num_neighbors * a.weight_channels;
}

template <class T>
struct Workspace {
  PairWorkspace<T> pairs;
  T* products;

  Workspace(Arena& arena, const AttentionAggregate<T>& a)
      : pairs(arena, a.pairs, false), products(arena.take<T>(num_weights(a))) {}
};

}  // namespace
}  // namespace cuda

template <class T>
size_t attention_aggregate_workspace_bytes(const AttentionAggregate<T>& a) {
  cuda::Arena arena(nullptr);
  arena.take<T>(cuda::num_weights(a));
  return arena.used();
}

template <class T>
void attention_aggregate_cuda(const AttentionAggregate<T>& a, T* out, void* workspace, void* stream) {
  using namespace cuda;
  constexpr auto what = "attention_aggregate";
  if (a.pairs.num_query == 0) return;
  Arena arena(workspace);
  T* probs = arena.take<T>(num_weights(a));
  softmax(what, a, probs, stream);
  launch(what, collect_kernel<T>, blocks_for(a.pairs.num_query * a.pairs.channels, kThreads), kThreads, 0, stream, a,
         probs, out);
}

template <class T>
size_t attention_aggregate_backward_workspace_bytes(const AttentionAggregate<T>& a) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace<T> counted(arena, a);
  return arena.used();
}

template <class T>
void attention_aggregate_backward_cuda(const AttentionAggregate<T>& a, const AttentionAggregateGradients<T>& g,
                                       void* workspace, void* stream) {
  using namespace cuda;
  constexpr auto what = "attention_aggregate_backward";
  Arena arena(workspace);
  const Workspace<T> w(arena, a);
  const RowLists lists = pairs_by_key(what, a.pairs, w.pairs, stream);
  softmax(what, a, g.logits, stream);
  AttentionPairGradients<T> pairs = g.pairs;
  pairs.query = nullptr;
  pair_gradients(what, a.pairs, AggregateGradient<T>{a, g.logits, g.grad_out}, lists, T(1), pairs,
                 static_cast<T*>(nullptr), static_cast<T*>(nullptr), w.pairs.sums, stream);
  const int64_t rows = a.pairs.num_query * a.weight_channels;
  if (rows > 0)
    launch(what, logits_kernel<T>, blocks_for(rows, kThreads), kThreads, 0, stream, a, g.grad_out, w.products,
           g.logits);
}

#define PCSEG_INSTANTIATE(T)                                                                                          \
  template size_t attention_aggregate_workspace_bytes(const AttentionAggregate<T>& a);                                \
  template void attention_aggregate_cuda(const AttentionAggregate<T>& a, T* out, void* workspace, void* stream);      \
  template size_t attention_aggregate_backward_workspace_bytes(const AttentionAggregate<T>& a);                       \
  template void attention_aggregate_backward_cuda(                                                                    \
      const AttentionAggregate<T>& a, const AttentionAggregateGradients<T>& g, void* workspace, void* stream);
PCSEG_INSTANTIATE(float)
PCSEG_INSTANTIATE(double)
#undef PCSEG_INSTANTIATE

}  // namespace pcseg
