#include <atomic>

#include "attention_weights.h"

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
          if (attention.size() == 0) {
            std::fill_n(out + m * channels, channels, T(0));
            continue;
          }
          attention.fetch();
          attention.softmax();
          attention.average_positions();
          T* to = in.stride == channels ? out + m * channels : memory.out.data();
          attention.collect(to);
          if (to == memory.out.data()) std::copy_n(to, channels, out + m * channels);
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

// values'[j] = sum over the pairs that name j of probs * grad_out[m].
template <class T>
void backward_by_key(const AttentionAggregate<T>& a, const Rows<T>& grad_out, const T* probs, T* grad_key,
                     const Parallel& parallel) {
  const KeyPairs by_key(a.pairs, parallel);
  const int64_t channels = a.pairs.channels, stride = round_up(channels, kLanes<T>);
  const uint32_t width = static_cast<uint32_t>(a.pairs.num_neighbors);
  const Weights<T> weights(a.weight_channels, channels);
  const bool repeat = weights.length != weights.channels;
  constexpr int64_t kAhead = 16;  // pairs whose rows are asked for early
  for_parts(
      a.pairs.num_key, by_key.first(a.pairs.num_key), parallel,
      [&] { return std::unique_ptr<Buffer<T>>(new Buffer<T>(stride + PairBlock<T>::kMost * weights.length)); },
      [&](int64_t begin, int64_t end, Buffer<T>& memory) {
        T *sum = memory.data(), *repeated = sum + stride;
        const T *grad_row[PairBlock<T>::kMost], *prob_row[PairBlock<T>::kMost];
        const int64_t last_pair = by_key.first(end);
        for (int64_t j = begin; j < end; ++j) {
          std::fill_n(sum, stride, T(0));
          const int64_t last = by_key.first(j + 1);
          for (int64_t first = by_key.first(j); first < last; first += PairBlock<T>::kMost) {
            const int64_t size = std::min(last - first, PairBlock<T>::kMost);
            if (repeat)
              with_width(a.weight_channels, [&](auto count) {
                for (int64_t i = 0; i < size; ++i)
                  weights.repeat(count, probs + by_key.pair(first + i) * count, repeated + i * weights.length);
              });
            for (int64_t i = 0; i < size; ++i) {
              const int64_t e = by_key.pair(first + i);
              prob_row[i] = repeat ? repeated + i * weights.length : probs + e * a.weight_channels;
              grad_row[i] = grad_out.data + static_cast<uint32_t>(e) / width * grad_out.stride;
              if (first + i + kAhead >= last_pair) continue;
              const int64_t later = by_key.pair(first + i + kAhead);
              const T* row = grad_out.data + static_cast<uint32_t>(later) / width * grad_out.stride;
              for (int64_t c = 0; c < stride; c += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + c);
              __builtin_prefetch(probs + later * a.weight_channels);
            }
            for_channels<T>(stride, [&](int64_t c, auto vectors) {
              Vector<T> total[vectors];
              int64_t place[vectors];
              for (int v = 0; v < vectors; ++v) {
                total[v] = load(sum + c + v * kLanes<T>);
                place[v] = weights.place(c + v * kLanes<T>);
              }
              for (int64_t i = 0; i < size; ++i)
                for (int v = 0; v < vectors; ++v)
                  total[v] = multiply_add<T>(load(prob_row[i] + place[v]),
                                             load(grad_row[i] + c + v * kLanes<T>), total[v]);
              for (int v = 0; v < vectors; ++v) store(sum + c + v * kLanes<T>, total[v]);
            });
          }
          std::copy_n(sum, channels, grad_key + j * channels);
        }
      });
}

// The rest, with probs in the place of the logits' gradient.
template <class T>
void backward_by_query(const PairInputs<T>& in, const AttentionAggregate<T>& a, const Rows<T>& grad_out,
                       const AttentionAggregateGradients<T>& g, const Parallel& parallel) {
  const AttentionPairs<T>& pairs = a.pairs;
  const int64_t positions = pairs.position_channels, stride = in.stride, width = a.weight_channels;
  ParameterSums<T> sums(pairs.num_query, pairs.num_query * pairs.num_neighbors, (positions + 1) * stride);
  struct Memory {
    Attention<T> attention;
    Buffer<T> products, position_products;
  };
  for_tasks(
      sums.chunks(), parallel,
      [&] {
        Attention<T> attention(in, width);
        const int64_t length = attention.weights().length;
        return std::unique_ptr<Memory>(new Memory{std::move(attention), Buffer<T>(2 * pairs.num_neighbors * length),
                                                  Buffer<T>(positions * length)});
      },
      [&](int64_t chunk, Memory& memory) {
        Attention<T>& attention = memory.attention;
        const int64_t length = attention.weights().length;
        const int64_t begin = sums.begin(chunk), end = sums.begin(chunk + 1);
        T* sum = sums.start(chunk);
        clear_missing(pairs, begin, end, positions, g.pairs.position);
        for (int64_t m = begin; m < end; ++m) {
          attention.read(m, g.logits, g.logits);
          if (attention.size() == 0) continue;
          attention.fetch();
          attention.average_positions();
          const T* grad = grad_out.data + m * grad_out.stride;
          attention.products(grad, memory.products.data(), memory.position_products.data());
          for (int64_t c = 0; c < stride; c += kLanes<T>) {
            const Vector<T> value = load(grad + c);
            for (int64_t p = 0; p < positions; ++p) {
              T* to = sum + p * stride + c;
              store(to, multiply_add<T>(value, load(attention.means(p) + attention.weights().place(c)), load(to)));
            }
            store(sum + positions * stride + c, load(sum + positions * stride + c) + value);
          }
          for (int64_t i = 0; i < attention.size(); ++i)
            for (int64_t p = 0; p < positions; ++p) {
              Vector<T> dot{};
              for (int64_t at = 0; at < length; at += kLanes<T>)
                dot = multiply_add<T>(load(attention.probs(i) + at), load(&memory.position_products[p * length + at]),
                                      dot);
              g.pairs.position[attention.number(i) * positions + p] = fold_lanes<T>(dot);
            }
          attention.softmax_gradients(memory.products.data());
          attention.write(g.logits);
        }
      });
  write_position_sums(in, sums.total(), g.pairs);
}

template <class T>
void backward(const AttentionAggregate<T>& a, const AttentionAggregateGradients<T>& g, const Parallel& parallel) {
  const PairInputs<T> in(a.pairs, false, parallel);
  const PaddedRows<T> grad_out(g.grad_out, a.pairs.num_query, a.pairs.channels, parallel);
  write_probs(in, a, g.logits, parallel);
  backward_by_key(a, *grad_out, g.logits, g.pairs.key, parallel);
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
