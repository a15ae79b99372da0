#include "norm_attention.h"

#include <atomic>

#include "attention_gradients.h"
#include "norm_blocks.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Whole queries, whose pairs are about a block of the norm's.
template <class T>
int64_t queries_of_block(const AttentionPairs<T>& a) {
  return std::max<int64_t>(1, kNormRows / std::max<int64_t>(a.num_neighbors, 1));
}

// f(first query, end) for blocks of queries begin .. end - 1.
template <class T, class F>
void for_queries(const AttentionPairs<T>& a, int64_t begin, int64_t end, const F& f) {
  const int64_t step = queries_of_block(a);
  for (int64_t m = begin; m < end; m += step) f(m, std::min(end, m + step));
}

// The logits of blocks of queries, and what becomes of them.
template <class T>
struct Logits {
  const NormAttention<T>& a;
  PairInputs<T> in;
  NormForward<T> layers;

  struct Memory {
    typename NormForward<T>::Memory layers;
    Attention<T> attention;
    Buffer<T> logits, out;
  };

  Logits(const NormAttention<T>& inputs, const Parallel& parallel)
      : a(inputs), in(a.pairs, false, parallel), layers(a.norm) {}

  // f(query, number of the block's first pair, memory) for each query, where memory.logits are the block's.
  template <class F>
  void each(const Parallel& parallel, const F& f) const {
    const AttentionPairs<T>& pairs = a.pairs;
    const int64_t most = queries_of_block(pairs) * pairs.num_neighbors;
    for_parts(
        pairs.num_query, a.norm.num_rows, parallel,
        [&] {
          return std::unique_ptr<Memory>(new Memory{layers.memory(most), Attention<T>(in, a.norm.out_channels),
                                                    Buffer<T>(most * a.norm.out_channels), Buffer<T>(in.stride)});
        },
        [&](int64_t begin, int64_t end, Memory& memory) {
          for_queries(pairs, begin, end, [&](int64_t m, int64_t last) {
            const int64_t first = m * pairs.num_neighbors, count = (last - m) * pairs.num_neighbors;
            layers(a.norm.rows + first * a.norm.in_channels, count, memory.logits.data(), memory.layers);
            for (; m < last; ++m) f(m, first, memory);
          });
        });
  }
};

template <class T>
bool forward(const NormAttention<T>& a, T* out, const Parallel& parallel) {
  if (a.norm.of_batch) find_moments(a.norm, parallel);
  std::atomic<bool> in_range{true};
  Logits<T>(a, parallel).each(parallel, [&](int64_t m, int64_t first, auto& memory) {
    if (!memory.attention.read(m, memory.logits.data(), memory.logits.data(), first)) in_range = false;
    memory.attention.sum_values(out + m * a.pairs.channels, memory.out.data());
  });
  return in_range;
}

// The softmax of the logits, made again; 0 where there is no neighbour.
template <class T>
void write_probs(const Logits<T>& logits, T* probs, const Parallel& parallel) {
  const AttentionPairs<T>& pairs = logits.a.pairs;
  const int64_t width = logits.a.norm.out_channels;
  logits.each(parallel, [&](int64_t m, int64_t first, auto& memory) {
    T* rows = memory.logits.data();
    memory.attention.read(m, rows, rows, first);
    memory.attention.softmax();
    memory.attention.write(rows, first);
    const int64_t begin = m * pairs.num_neighbors;
    std::copy_n(rows + (begin - first) * width, pairs.num_neighbors * width, probs + begin * width);
    clear_missing(pairs, m, m + 1, width, probs);
  });
}

// All but the values' gradient, and what goes through mean and var. probs may be g.norm.rows.
template <class T>
void backward_by_query(const PairInputs<T>& in, const NormAttention<T>& a, const Rows<T>& grad_out, const T* probs,
                       const NormAttentionGradients<T>& g, const Parallel& parallel) {
  const AttentionPairs<T>& pairs = a.pairs;
  const NormBackward<T> layers(a.norm);
  const int64_t width = a.norm.out_channels, most = queries_of_block(pairs) * pairs.num_neighbors;
  const int64_t position_size = QueryGradients<T>::size(in);
  ParameterSums<T> sums(pairs.num_query, a.norm.num_rows, position_size + layers.size());
  struct Memory {
    typename NormBackward<T>::Memory layers;
    QueryGradients<T> gradients;
    Buffer<T> logits;
  };
  for_tasks(
      sums.chunks(), parallel,
      [&] {
        return std::unique_ptr<Memory>(
            new Memory{layers.memory(most), QueryGradients<T>(in, width), Buffer<T>(most * width)});
      },
      [&](int64_t chunk, Memory& memory) {
        T *sum = sums.start(chunk), *logits = memory.logits.data();
        clear_missing(pairs, sums.begin(chunk), sums.begin(chunk + 1), pairs.position_channels, g.pairs.position);
        for_queries(pairs, sums.begin(chunk), sums.begin(chunk + 1), [&](int64_t m, int64_t last) {
          const int64_t first = m * pairs.num_neighbors, count = (last - m) * pairs.num_neighbors;
          const int64_t at = first * a.norm.in_channels;
          std::copy_n(probs + first * width, count * width, logits);
          for (; m < last; ++m)
            memory.gradients(m, grad_out.data + m * grad_out.stride, logits, first, sum, g.pairs.position);
          layers(a.norm.rows + at, logits, count, g.norm.rows + at, sum + position_size, memory.layers);
        });
      });
  const T* total = sums.total();
  write_position_sums(in, total, g.pairs);
  layers.write(total + position_size, g.norm);
}

template <class T>
void backward(const NormAttention<T>& a, const NormAttentionGradients<T>& g, const Parallel& parallel) {
  const Logits<T> logits(a, parallel);
  const PaddedRows<T> grad_out(g.grad_out, a.pairs.num_query, a.pairs.channels, parallel);
  // The probs of a pair are read before its row's gradient is written: one memory for both where both have one size.
  const bool same_size = a.norm.in_channels == a.norm.out_channels;
  Buffer<T> memory(same_size ? 0 : a.norm.num_rows * a.norm.out_channels);
  T* probs = same_size ? g.norm.rows : memory.data();
  write_probs(logits, probs, parallel);
  value_gradients(a.pairs, a.norm.out_channels, *grad_out, probs, g.pairs.key, parallel);
  backward_by_query(logits.in, a, *grad_out, probs, g, parallel);
  if (a.norm.of_batch) through_moments(a.norm, g.norm, parallel);
}

}  // namespace

bool norm_attention(const NormAttention<float>& a, float* out, const Parallel& parallel) {
  return forward(a, out, parallel);
}
bool norm_attention(const NormAttention<double>& a, double* out, const Parallel& parallel) {
  return forward(a, out, parallel);
}
void norm_attention_backward(const NormAttention<float>& a, const NormAttentionGradients<float>& g,
                             const Parallel& parallel) {
  backward(a, g, parallel);
}
void norm_attention_backward(const NormAttention<double>& a, const NormAttentionGradients<double>& g,
                             const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
