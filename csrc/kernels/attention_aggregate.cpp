#include <atomic>
#include <limits>
#include <numeric>

#include "attention_pairs.h"
#include "vector_exp.h"

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
        probs_(in.a.num_neighbors * weights_.length),
        means_(in.a.position_channels * weights_.length) {}

  int64_t size() const { return size_; }
  int64_t number(int64_t i) const { return number_.data()[i]; }
  const Weights<T>& weights() const { return weights_; }
  T* probs(int64_t i) { return probs_.data() + i * weights_.length; }
  const T* position(int64_t i) const { return in_.a.position + number(i) * in_.a.position_channels; }
  // means(p) = sum over the neighbours of probs * position[p].
  T* means(int64_t p) { return means_.data() + p * weights_.length; }

  // Finds the neighbours of query m and copies their weights. False: an index lay out of range.
  bool read(int64_t m, const T* weights) {
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
    with_width(weights_.channels, [&](auto width) {
      for (int64_t i = 0; i < size_; ++i) weights_.repeat(width, weights + number(i) * width, probs(i));
    });
    return in_range;
  }

  void fetch() const {
    for (int64_t i = 0; i < size_; ++i)
      for (int64_t c = 0; c < in_.stride; c += 64 / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(key_.data()[i] + c);
  }

  // The weights were logits: their softmax over the neighbours.
  void softmax() {
    for (int64_t at = 0; at < weights_.length; at += kLanes<T>) {
      Vector<T> most = broadcast(-std::numeric_limits<T>::infinity()), sum{};
      for (int64_t i = 0; i < size_; ++i) {
        const Vector<T> logit = load(probs(i) + at);
        most = logit > most ? logit : most;
      }
      for (int64_t i = 0; i < size_; ++i) {
        const Vector<T> power = exp_of_nonpositive<T>(load(probs(i) + at) - most);
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
  Buffer<T> probs_, means_;
};

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
          if (!attention.read(m, a.logits)) in_range = false;
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
          attention.read(m, a.logits);
          attention.softmax();
          with_width(width, [&](auto count) {
            for (int64_t i = 0; i < attention.size(); ++i)
              std::copy_n(attention.probs(i), int64_t{count}, probs + attention.number(i) * count);
          });
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
  constexpr int64_t kAhead = 16;  // pairs whose rows are asked for early
  for_parts(
      a.pairs.num_key, by_key.first(a.pairs.num_key), parallel,
      [&] { return std::unique_ptr<Buffer<T>>(new Buffer<T>(stride + PairBlock<T>::kMost * weights.length)); },
      [&](int64_t begin, int64_t end, Buffer<T>& memory) {
        T *sum = memory.data(), *repeated = sum + stride;
        const T* grad_row[PairBlock<T>::kMost];
        const int64_t last_pair = by_key.first(end);
        for (int64_t j = begin; j < end; ++j) {
          std::fill_n(sum, stride, T(0));
          const int64_t last = by_key.first(j + 1);
          for (int64_t first = by_key.first(j); first < last; first += PairBlock<T>::kMost) {
            const int64_t size = std::min(last - first, PairBlock<T>::kMost);
            with_width(a.weight_channels, [&](auto count) {
              for (int64_t i = 0; i < size; ++i)
                weights.repeat(count, probs + by_key.pair(first + i) * count, repeated + i * weights.length);
            });
            for (int64_t i = 0; i < size; ++i) {
              const int64_t e = by_key.pair(first + i);
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
                  total[v] = multiply_add<T>(load(repeated + i * weights.length + place[v]),
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
          attention.read(m, g.logits);
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
          with_width(width, [&](auto count) {
            for (int64_t i = 0; i < attention.size(); ++i)
              std::copy_n(attention.probs(i), int64_t{count}, g.logits + attention.number(i) * count);
          });
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
