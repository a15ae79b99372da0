// The weights of one query's neighbours: their softmax, what it collects, and its gradient.
#pragma once

#include <limits>
#include <numeric>

#include "attention_pairs.h"
#include "vector_math.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Channel c is weighted by weight channel c % weight_channels. Weights are repeated to a length that whole vectors of
// channels can read them from: the vector from channel c on begins at place(c).
template <class T>
struct Weights {
  int64_t channels, length, copies;

  Weights(int64_t weight_channels, int64_t all_channels)
      : channels(weight_channels),
        length(channels == all_channels ? round_up(channels, kLanes<T>) : std::lcm<int64_t>(channels, kLanes<T>)),
        copies(length / channels) {}
  int64_t place(int64_t c) const { return c % length; }
  // `width` is `channels`, or a constant that equals it.
  template <class Width>
  void repeat(Width width, const T* from, T* to) const {
    int64_t at = 0;
    for (; at + width <= length; at += width) std::copy_n(from, int64_t{width}, to + at);
    for (; at < length; ++at) to[at] = T(0);
  }
};

// One query's neighbours, and their weights.
template <class T>
class Attention {
 public:
  Attention(const PairInputs<T>& in, int64_t weight_channels)
      : in_(in),
        weights_(weight_channels, in.a.channels),
        key_(in.a.num_neighbors),
        number_(in.a.num_neighbors),
        weight_(in.a.num_neighbors),
        prob_(in.a.num_neighbors),
        probs_(in.a.num_neighbors * weights_.length),
        means_(in.a.position_channels * weights_.length) {}

  int64_t size() const { return size_; }
  int64_t number(int64_t i) const { return number_.data()[i]; }
  const Weights<T>& weights() const { return weights_; }
  T* probs(int64_t i) { return prob_[i]; }
  const T* position(int64_t i) const { return in_.a.position + number(i) * in_.a.position_channels; }
  // means(p) = sum over the neighbours of probs * position[p].
  T* means(int64_t p) { return means_.data() + p * weights_.length; }

  // Finds the neighbours of query m and their weights; row 0 of `weights` and `results` is that of pair number `first`.
  // Rows of the weights that need not be repeated are read where they are, and probs(i) then is a row of `results`
  // unless that is null. False: an index lay out of range.
  bool read(int64_t m, const T* weights, T* results, int64_t first = 0) {
    const AttentionPairs<T>& a = in_.a;
    bool in_range = true;
    size_ = 0;
    for (int64_t e = m * a.num_neighbors; e < (m + 1) * a.num_neighbors; ++e) {
      const int64_t j = a.neighbors[e];
      if (static_cast<uint64_t>(j) >= static_cast<uint64_t>(a.num_key)) {
        in_range &= j == a.num_key;
        continue;
      }
      key_[size_] = in_.key_row(j);
      number_[size_++] = e;
    }
    const bool repeated = weights_.length != weights_.channels;
    for (int64_t i = 0; i < size_; ++i) {
      T* copy = probs_.data() + i * weights_.length;
      const int64_t at = (number(i) - first) * weights_.channels;
      weight_[i] = repeated ? copy : weights + at;
      prob_[i] = repeated || !results ? copy : results + at;
    }
    if (repeated)
      with_width(weights_.channels, [&](auto width) {
        for (int64_t i = 0; i < size_; ++i) weights_.repeat(width, weights + (number(i) - first) * width, probs(i));
      });
    return in_range;
  }

  // Copies probs to `results` where they are not there yet.
  void write(T* results, int64_t first = 0) {
    if (weights_.length == weights_.channels) return;
    with_width(weights_.channels, [&](auto width) {
      for (int64_t i = 0; i < size_; ++i) std::copy_n(probs(i), int64_t{width}, results + (number(i) - first) * width);
    });
  }

  void fetch() const {
    for (int64_t i = 0; i < size_; ++i) fetch_row(key_.data()[i], in_.stride);
  }

  // The weights were logits: their softmax over the neighbours.
  void softmax() {
    for (int64_t at = 0; at < weights_.length; at += kLanes<T>) {
      Vector<T> most = broadcast(-std::numeric_limits<T>::infinity()), sum{};
      for (int64_t i = 0; i < size_; ++i) {
        const Vector<T> logit = load(weight_[i] + at);
        most = logit > most ? logit : most;
      }
      for (int64_t i = 0; i < size_; ++i) {
        const Vector<T> power = exp_of_nonpositive<T>(load(weight_[i] + at) - most);
        sum += power;
        store(probs(i) + at, power);
      }
      const Vector<T> factor = broadcast(T(1)) / sum;
      for (int64_t i = 0; i < size_; ++i) store(probs(i) + at, factor * load(probs(i) + at));
    }
  }

  void average_positions() {
    const int64_t positions = in_.a.position_channels;
    for (int64_t at = 0; at < weights_.length; at += kLanes<T>)
      for (int64_t p = 0; p < positions; p += kPositions)
        with_count<kPositions>(positions - p, [&](auto count) {
          Vector<T> sum[count] = {};
          for (int64_t i = 0; i < size_; ++i) {
            const Vector<T> prob = load(probs(i) + at);
            for (int n = 0; n < count; ++n) sum[n] = multiply_add<T>(broadcast(position(i)[p + n]), prob, sum[n]);
          }
          for (int n = 0; n < count; ++n) store(means(p + n) + at, sum[n]);
        });
  }

  // out[c] = sum over the neighbours of probs * (value + delta), for whole vectors.
  void collect(T* out) {
    const int64_t positions = in_.a.position_channels;
    for_channels<T>(in_.stride, [&](int64_t first, auto vectors) {
      Vector<T> sum[vectors];
      int64_t place[vectors];
      for (int v = 0; v < vectors; ++v) {
        const int64_t c = first + v * kLanes<T>;
        place[v] = weights_.place(c);
        sum[v] = load(in_.bias.data() + c);
        for (int64_t p = 0; p < positions; ++p)
          sum[v] = multiply_add<T>(load(in_.weight.data() + p * in_.stride + c), load(means(p) + place[v]), sum[v]);
      }
      for (int64_t i = 0; i < size_; ++i)
        for (int v = 0; v < vectors; ++v)
          sum[v] = multiply_add<T>(load(probs(i) + place[v]), load(key_[i] + first + v * kLanes<T>), sum[v]);
      for (int v = 0; v < vectors; ++v) store(out + first + v * kLanes<T>, sum[v]);
    });
  }

  // The weights were logits: out[c] = the sum that their softmax weights, for the channels there are. padded: `stride`
  // numbers to work in.
  void sum_values(T* out, T* padded) {
    const int64_t channels = in_.a.channels;
    if (size_ == 0) return static_cast<void>(std::fill_n(out, channels, T(0)));
    fetch();
    softmax();
    average_positions();
    collect(in_.stride == channels ? out : padded);
    if (in_.stride != channels) std::copy_n(padded, channels, out);
  }

  // products[i][place] = sum over the channels of that place of grad * (value + delta), but for what all neighbours
  // share, twice in a row, so that a round of places can begin anywhere; position_products: the same of
  // grad * position_weight[p], once.
  void products(const T* grad, T* products, T* position_products) {
    const int64_t positions = in_.a.position_channels, length = weights_.length;
    for (int64_t at = 0; at < length; at += kLanes<T>) {
      for (int64_t p = 0; p < positions; ++p) {
        Vector<T> sum{};
        for (int64_t c = at; c < in_.stride; c += length)
          sum = multiply_add<T>(load(grad + c), load(in_.weight.data() + p * in_.stride + c), sum);
        store(position_products + p * length + at, sum);
      }
      for (int64_t i = 0; i < size_; ++i) {
        Vector<T> sum{};
        for (int64_t p = 0; p < positions; ++p)
          sum = multiply_add<T>(broadcast(position(i)[p]), load(position_products + p * length + at), sum);
        for (int64_t c = at; c < in_.stride; c += length)
          sum = multiply_add<T>(load(grad + c), load(key_[i] + c), sum);
        store(products + 2 * i * length + at, sum);
        store(products + (2 * i + 1) * length + at, sum);
      }
    }
  }

  // probs(i) = the gradient of the logits, where `products` holds that of each place.
  void softmax_gradients(const T* products) {
    const int64_t length = weights_.length;
    for (int64_t at = 0; at < length; at += kLanes<T>) {
      Vector<T> shared{};
      const auto product = [&](int64_t i) {
        const T* row = products + 2 * i * length + at;
        Vector<T> sum = load(row);
        for (int64_t copy = 1; copy < weights_.copies; ++copy) sum += load(row + copy * weights_.channels);
        return sum;
      };
      for (int64_t i = 0; i < size_; ++i) shared = multiply_add<T>(load(probs(i) + at), product(i), shared);
      for (int64_t i = 0; i < size_; ++i) store(probs(i) + at, load(probs(i) + at) * (product(i) - shared));
    }
  }

 private:
  const PairInputs<T>& in_;
  Weights<T> weights_;
  int64_t size_ = 0;
  Buffer<const T*> key_;
  Buffer<int64_t> number_;
  Buffer<const T*> weight_;
  Buffer<T*> prob_;
  Buffer<T> probs_, means_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
