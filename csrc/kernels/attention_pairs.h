// Blocks of pairs of a vector attention: who they are, their differences, and what a gradient of the differences means
// for the rows and parameters they come from.
//
// Queries own the pairs of their lists; for the gradient of the keys, keys own the pairs that name them. Both ways the
// pairs of an owner follow each other and each row has one owner, so that sums have one order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "counting_sort.h"
#include "matrix_block.h"
#include "padded_rows.h"
#include "task_split.h"
#include "vector_attention.h"
#include "vector_blocks.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Asks for a row that is read soon.
template <class T>
void fetch_row(const T* row, int64_t length) {
  for (int64_t c = 0; c < length; c += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + c);
}

// What every walk over the pairs reads. `queries` false: only the keys (values) and the position code.
template <class T>
struct PairInputs {
  const AttentionPairs<T>& a;
  int64_t stride;  // of a padded row of channels
  PaddedRows<T> query, key;
  Buffer<T> weight;  // (position_channels, stride)
  Buffer<T> bias;

  PairInputs(const AttentionPairs<T>& pairs, bool queries, const Parallel& parallel)
      : a(pairs),
        stride(round_up(a.channels, kLanes<T>)),
        query(a.query, queries ? a.num_query : 0, a.channels, parallel),
        key(a.key, a.num_key, a.channels, parallel),
        weight(a.position_channels * stride),
        bias(padded_copy(a.position_bias, a.channels, stride)) {
    for (int64_t p = 0; p < a.position_channels; ++p) {
      T* row = &weight[p * stride];
      for (int64_t c = 0; c < stride; ++c)
        row[c] = c < a.channels ? a.position_weight[c * a.position_channels + p] : T(0);
    }
  }
  const T* query_row(int64_t m) const { return query->data + m * query->stride; }
  const T* key_row(int64_t j) const { return key->data + j * key->stride; }
};

// The pairs that name each key, by number.
class KeyPairs {
 public:
  template <class T>
  KeyPairs(const AttentionPairs<T>& a, const Parallel& parallel) {
    const auto each = [&](int64_t begin, int64_t end, auto&& f) {
      for (int64_t e = begin * a.num_neighbors; e < end * a.num_neighbors; ++e)
        if (static_cast<uint64_t>(a.neighbors[e]) < static_cast<uint64_t>(a.num_key)) f(a.neighbors[e], e);
    };
    sort_by_support(
        a.num_query, a.num_key, first_, parallel, each, [&](int64_t total) { pair_.grow(total); },
        [&](int64_t to, int64_t e) { pair_[to] = static_cast<int32_t>(e); });
  }
  int64_t first(int64_t j) const { return first_.data()[j]; }
  int64_t pair(int64_t i) const { return pair_.data()[i]; }

 private:
  Buffer<int64_t> first_;
  Buffer<int32_t> pair_;
};

template <class T>
class PairBlock {
 public:
  static constexpr int64_t kMost = 64;
  struct Segment {
    int64_t owner, begin, end;
  };

  explicit PairBlock(const PairInputs<T>& in) : in_(in), rows_(kMost * in.stride), sum_(in.stride) {}

  int64_t size() const { return size_; }
  int64_t number(int64_t i) const { return number_[i]; }
  const T* query(int64_t i) const { return query_[i]; }
  T* row(int64_t i) { return rows_.data() + i * in_.stride; }

  // f() for each block of pairs of queries begin .. end - 1. False: an index lay out of range.
  template <class F>
  bool for_queries(int64_t begin, int64_t end, F&& f) {
    const AttentionPairs<T>& a = in_.a;
    bool in_range = true;
    for (int64_t m = begin; m < end; ++m) {
      start(m);
      for (int64_t e = m * a.num_neighbors; e < (m + 1) * a.num_neighbors; ++e) {
        const int64_t j = a.neighbors[e];
        if (static_cast<uint64_t>(j) >= static_cast<uint64_t>(a.num_key)) {
          in_range &= j == a.num_key;
          continue;
        }
        fetch_row(in_.key_row(j), in_.stride);
        push(e, m, j, f);
      }
    }
    finish(f);
    return in_range;
  }

  // f() for each block of the pairs that name keys begin .. end - 1. fetch(pair, query) asks early for what f reads:
  // the pairs lie anywhere.
  template <class Fetch, class F>
  void for_keys(const KeyPairs& pairs, int64_t begin, int64_t end, const Fetch& fetch, F&& f) {
    const uint32_t width = static_cast<uint32_t>(in_.a.num_neighbors);
    for (int64_t j = begin; j < end; ++j) {
      start(j);
      for (int64_t i = pairs.first(j); i < pairs.first(j + 1); ++i) {
        const int64_t e = pairs.pair(i), m = static_cast<uint32_t>(e) / width;
        fetch(e, m);
        push(e, m, j, f);
      }
    }
    finish(f);
  }

  // row(i) = f(first channel, difference vector of pair i).
  template <class F>
  void differences(const F& f) {
    const int64_t positions = in_.a.position_channels;
    for_channels<T>(in_.stride, [&](int64_t c, auto vectors) {
      for (int64_t p = 0; p < positions; p += kPositions)
        with_count<kPositions>(positions - p, [&](auto count) {
          if (p + kPositions < positions)
            add_positions<vectors, count>(c, p, [](int64_t, Vector<T> x) { return x; });
          else
            add_positions<vectors, count>(c, p, f);
        });
    });
  }

  // out[owner] += sum of its rows, for rows of `channels` numbers.
  void add_to_owners(T* out) {
    add_to_owners(out, [&](int64_t i, int64_t c) { return load(row(i) + c); });
  }
  // The same for other rows: vector(i, c).
  template <class F>
  void add_to_owners(T* out, const F& vector) {
    for (int64_t s = 0; s < segments_; ++s) {
      const Segment& segment = segment_[s];
      for_channels<T>(in_.stride, [&](int64_t c, auto vectors) {
        Vector<T> sum[vectors] = {};
        for (int64_t i = segment.begin; i < segment.end; ++i)
          for (int v = 0; v < vectors; ++v) sum[v] += vector(i, c + v * kLanes<T>);
        for (int v = 0; v < vectors; ++v) store(&sum_[c + v * kLanes<T>], sum[v]);
      });
      T* to = out + segment.owner * in_.a.channels;
      for (int64_t c = 0; c < in_.a.channels; ++c) to[c] += sum_[c];
    }
  }

  // The rows are gradients of the differences: sums[p] += sum of position[p] * row for each position channel,
  // sums[position_channels] += sum of the rows (sums: rows of `stride` numbers), and, by pair number,
  // grad_position[pair, p] = <row, weight[p]>.
  void position_gradients(T* sums, T* grad_position) {
    const int64_t positions = in_.a.position_channels, stride = in_.stride;
    for_channels<T>(stride, [&](int64_t c, auto vectors) {
      Vector<T> sum[vectors];
      T* bias = sums + positions * stride + c;
      for (int v = 0; v < vectors; ++v) sum[v] = load(bias + v * kLanes<T>);
      for (int64_t i = 0; i < size_; ++i)
        for (int v = 0; v < vectors; ++v) sum[v] += load(row(i) + c + v * kLanes<T>);
      for (int v = 0; v < vectors; ++v) store(bias + v * kLanes<T>, sum[v]);
    });
    for (int64_t p = 0; p < positions; p += kPositions)
      with_count<kPositions>(positions - p, [&](auto count) {
        for_channels<T>(stride, [&](int64_t c, auto vectors) { sum_positions<vectors, count>(c, p, sums); });
        for (int64_t i = 0; i < size_; i += kDotRows)
          with_count<kDotRows>(size_ - i, [&](auto rows) { dot_positions<rows, count>(i, p, grad_position); });
      });
  }

 private:
  static constexpr int kDotRows = kRegisters == 32 ? 4 : 2;

  void start(int64_t owner) {
    if (segments_ && segment_[segments_ - 1].begin == size_) --segments_;
    segment_[segments_++] = {owner, size_, size_};
  }

  template <class F>
  void push(int64_t e, int64_t m, int64_t j, F&& f) {
    number_[size_] = e;
    query_[size_] = in_.query_row(m);
    key_[size_] = in_.key_row(j);
    position_[size_] = in_.a.position + e * in_.a.position_channels;
    segment_[segments_ - 1].end = ++size_;
    if (size_ < kMost) return;
    const int64_t owner = segment_[segments_ - 1].owner;
    finish(f);
    start(owner);
  }

  template <class F>
  void finish(F&& f) {
    if (size_) f();
    size_ = segments_ = 0;
  }

  template <int V, int N, class F>
  void add_positions(int64_t c, int64_t p, const F& f) {
    Vector<T> weight[N][V], bias[V];
    for (int v = 0; v < V; ++v) {
      bias[v] = load(in_.bias.data() + c + v * kLanes<T>);
      for (int n = 0; n < N; ++n) weight[n][v] = load(in_.weight.data() + (p + n) * in_.stride + c + v * kLanes<T>);
    }
    for (int64_t i = 0; i < size_; ++i) {
      const T *query = query_[i] + c, *key = key_[i] + c, *position = position_[i] + p;
      T* to = row(i) + c;
      Vector<T> x[V];
      for (int v = 0; v < V; ++v)
        x[v] = p ? load(to + v * kLanes<T>) : load(query + v * kLanes<T>) - load(key + v * kLanes<T>) + bias[v];
      for (int n = 0; n < N; ++n) {
        const Vector<T> factor = broadcast(position[n]);
        for (int v = 0; v < V; ++v) x[v] = multiply_add<T>(factor, weight[n][v], x[v]);
      }
      for (int v = 0; v < V; ++v) store(to + v * kLanes<T>, f(c + v * kLanes<T>, x[v]));
    }
  }

  template <int V, int N>
  void sum_positions(int64_t c, int64_t p, T* sums) {
    Vector<T> sum[N][V];
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < V; ++v) sum[n][v] = load(sums + (p + n) * in_.stride + c + v * kLanes<T>);
    for (int64_t i = 0; i < size_; ++i) {
      Vector<T> x[V];
      for (int v = 0; v < V; ++v) x[v] = load(row(i) + c + v * kLanes<T>);
      for (int n = 0; n < N; ++n) {
        const Vector<T> factor = broadcast(position_[i][p + n]);
        for (int v = 0; v < V; ++v) sum[n][v] = multiply_add<T>(factor, x[v], sum[n][v]);
      }
    }
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < V; ++v) store(sums + (p + n) * in_.stride + c + v * kLanes<T>, sum[n][v]);
  }

  template <int R, int N>
  void dot_positions(int64_t i, int64_t p, T* grad_position) {
    Vector<T> sum[R][N] = {};
    for (int64_t c = 0; c < in_.stride; c += kLanes<T>)
      for (int n = 0; n < N; ++n) {
        const Vector<T> weight = load(in_.weight.data() + (p + n) * in_.stride + c);
        for (int r = 0; r < R; ++r) sum[r][n] = multiply_add<T>(weight, load(row(i + r) + c), sum[r][n]);
      }
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n)
        grad_position[number_[i + r] * in_.a.position_channels + p + n] = fold_lanes<T>(sum[r][n]);
  }

  const PairInputs<T>& in_;
  int64_t size_ = 0, segments_ = 0;
  int64_t number_[kMost];
  const T *query_[kMost], *key_[kMost], *position_[kMost];
  Segment segment_[kMost + 1];
  Buffer<T> rows_, sum_;
};

// What position_gradients summed, as the gradients of position_weight and position_bias.
template <class T>
void write_position_sums(const PairInputs<T>& in, const T* sums, const AttentionPairGradients<T>& g) {
  const int64_t positions = in.a.position_channels;
  for (int64_t c = 0; c < in.a.channels; ++c)
    for (int64_t p = 0; p < positions; ++p) g.position_weight[c * positions + p] = sums[p * in.stride + c];
  std::copy_n(sums + positions * in.stride, in.a.channels, g.position_bias);
}

// Zeros for the pairs of queries begin .. end - 1 that no walk reaches.
template <class T>
void clear_missing(const AttentionPairs<T>& a, int64_t begin, int64_t end, int64_t width, T* out) {
  for (int64_t e = begin * a.num_neighbors; e < end * a.num_neighbors; ++e)
    if (static_cast<uint64_t>(a.neighbors[e]) >= static_cast<uint64_t>(a.num_key))
      std::fill_n(out + e * width, width, T(0));
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
