// The gradients of a weighted sum of values: of the values, key by key, and of all else, query by query.
#pragma once

#include <memory>

#include "attention_weights.h"

namespace pcseg::PCSEG_ISA {
namespace {

// values'[j] = sum over the pairs that name j of probs * grad_out[m].
template <class T>
void value_gradients(const AttentionPairs<T>& a, int64_t weight_channels, const Rows<T>& grad_out, const T* probs,
                     T* grad_key, const Parallel& parallel) {
  const KeyPairs by_key(a, parallel);
  const int64_t channels = a.channels, stride = round_up(channels, kLanes<T>);
  const uint32_t width = static_cast<uint32_t>(a.num_neighbors);
  const Weights<T> weights(weight_channels, channels);
  const bool repeat = weights.length != weights.channels;
  constexpr int64_t kAhead = 16;  // pairs whose rows are asked for early
  for_parts(
      a.num_key, by_key.first(a.num_key), parallel,
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
              with_width(weight_channels, [&](auto count) {
                for (int64_t i = 0; i < size; ++i)
                  weights.repeat(count, probs + by_key.pair(first + i) * count, repeated + i * weights.length);
              });
            for (int64_t i = 0; i < size; ++i) {
              const int64_t e = by_key.pair(first + i);
              prob_row[i] = repeat ? repeated + i * weights.length : probs + e * weight_channels;
              grad_row[i] = grad_out.data + static_cast<uint32_t>(e) / width * grad_out.stride;
              if (first + i + kAhead >= last_pair) continue;
              const int64_t later = by_key.pair(first + i + kAhead);
              const T* row = grad_out.data + static_cast<uint32_t>(later) / width * grad_out.stride;
              fetch_row(row, stride);
              fetch_row(probs + later * weight_channels, weight_channels);
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

// What a query's result gives back, from the weights of its neighbours.
template <class T>
class QueryGradients {
 public:
  QueryGradients(const PairInputs<T>& in, int64_t weight_channels)
      : in_(in),
        attention_(in, weight_channels),
        products_(2 * in.a.num_neighbors * attention_.weights().length),
        position_products_(in.a.position_channels * attention_.weights().length) {}

  // Numbers of the sums: position_weight, position_bias, in rows of `stride`.
  static int64_t size(const PairInputs<T>& in) { return (in.a.position_channels + 1) * in.stride; }

  // Turns the probs of query m's neighbours into the gradient of their logits, adds to `sum`, and writes the gradient
  // of the positions. grad: that of the result, padded; row 0 of `probs` is that of pair number `first`.
  void operator()(int64_t m, const T* grad, T* probs, int64_t first, T* sum, T* grad_position) {
    const int64_t positions = in_.a.position_channels, stride = in_.stride, length = attention_.weights().length;
    attention_.read(m, probs, probs, first);
    if (attention_.size() == 0) return;
    attention_.fetch();
    attention_.average_positions();
    attention_.products(grad, products_.data(), position_products_.data());
    for (int64_t c = 0; c < stride; c += kLanes<T>) {
      const Vector<T> value = load(grad + c);
      for (int64_t p = 0; p < positions; ++p) {
        T* to = sum + p * stride + c;
        store(to, multiply_add<T>(value, load(attention_.means(p) + attention_.weights().place(c)), load(to)));
      }
      store(sum + positions * stride + c, load(sum + positions * stride + c) + value);
    }
    for (int64_t i = 0; i < attention_.size(); ++i)
      for (int64_t p = 0; p < positions; ++p) {
        Vector<T> dot{};
        for (int64_t at = 0; at < length; at += kLanes<T>)
          dot = multiply_add<T>(load(attention_.probs(i) + at), load(&position_products_[p * length + at]), dot);
        grad_position[attention_.number(i) * positions + p] = fold_lanes<T>(dot);
      }
    attention_.softmax_gradients(products_.data());
    attention_.write(probs, first);
  }

 private:
  const PairInputs<T>& in_;
  Attention<T> attention_;
  Buffer<T> products_, position_products_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
