#include <atomic>

#include "attention_gradients.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
bool forward(const AttentionAggregate<T>& a, T* out, const Parallel& parallel) {
  const PairInputs<T> in(a.pairs, false, parallel);
  const int64_t channels = a.pairs.channels;
  struct Memory {
    Attention<T> attention;
    Buffer<T> out;
  };
  std::atomic<bool> in_range{true};
  for_parts(
      a.pairs.num_query, a.pairs.num_query * a.pairs.num_neighbors, parallel,
      [&] { return std::unique_ptr<Memory>(new Memory{Attention<T>(in, a.weight_channels), Buffer<T>(in.stride)}); },
      [&](int64_t begin, int64_t end, Memory& memory) {
        Attention<T>& attention = memory.attention;
        for (int64_t m = begin; m < end; ++m) {
          if (!attention.read(m, a.logits, nullptr)) in_range = false;
          attention.sum_values(out + m * channels, memory.out.data());
        }
      });
  return in_range;
}

// probs, in the shape of the logits.
template <class T>
void write_probs(const PairInputs<T>& in, const AttentionAggregate<T>& a, T* probs, const Parallel& parallel) {
  const int64_t width = a.weight_channels;
  for_parts(
      a.pairs.num_query, a.pairs.num_query * a.pairs.num_neighbors, parallel,
      [&] { return std::unique_ptr<Attention<T>>(new Attention<T>(in, width)); },
      [&](int64_t begin, int64_t end, Attention<T>& attention) {
        clear_missing(a.pairs, begin, end, width, probs);
        for (int64_t m = begin; m < end; ++m) {
          attention.read(m, a.logits, probs);
          attention.softmax();
          attention.write(probs);
        }
      });
}

// The rest, with probs in the place of the logits' gradient.
template <class T>
void backward_by_query(const PairInputs<T>& in, const AttentionAggregate<T>& a, const Rows<T>& grad_out,
                       const AttentionAggregateGradients<T>& g, const Parallel& parallel) {
  const AttentionPairs<T>& pairs = a.pairs;
  ParameterSums<T> sums(pairs.num_query, pairs.num_query * pairs.num_neighbors, QueryGradients<T>::size(in));
  for_tasks(
      sums.chunks(), parallel,
      [&] { return std::unique_ptr<QueryGradients<T>>(new QueryGradients<T>(in, a.weight_channels)); },
      [&](int64_t chunk, QueryGradients<T>& gradients) {
        const int64_t begin = sums.begin(chunk), end = sums.begin(chunk + 1);
        T* sum = sums.start(chunk);
        clear_missing(pairs, begin, end, pairs.position_channels, g.pairs.position);
        for (int64_t m = begin; m < end; ++m)
          gradients(m, grad_out.data + m * grad_out.stride, g.logits, 0, sum, g.pairs.position);
      });
  write_position_sums(in, sums.total(), g.pairs);
}

template <class T>
void backward(const AttentionAggregate<T>& a, const AttentionAggregateGradients<T>& g, const Parallel& parallel) {
  const PairInputs<T> in(a.pairs, false, parallel);
  const PaddedRows<T> grad_out(g.grad_out, a.pairs.num_query, a.pairs.channels, parallel);
  write_probs(in, a, g.logits, parallel);
  value_gradients(a.pairs, a.weight_channels, *grad_out, g.logits, g.pairs.key, parallel);
  backward_by_query(in, a, *grad_out, g, parallel);
}

}  // namespace

bool attention_aggregate(const AttentionAggregate<float>& a, float* out, const Parallel& parallel) {
  return forward(a, out, parallel);
}
bool attention_aggregate(const AttentionAggregate<double>& a, double* out, const Parallel& parallel) {
  return forward(a, out, parallel);
}
void attention_aggregate_backward(const AttentionAggregate<float>& a, const AttentionAggregateGradients<float>& g,
                                  const Parallel& parallel) {
  backward(a, g, parallel);
}
void attention_aggregate_backward(const AttentionAggregate<double>& a, const AttentionAggregateGradients<double>& g,
                                  const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
