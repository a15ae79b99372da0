// One tile of a kernel point convolution: which pairs of points influence each other through which kernel point, and
// the weighted sums of the features those pairs gather.
//
// The convolution and its gradient are the same walk in two directions: queries collect from their neighbours, or
// supports collect (the gradient) from the queries that list them. "Owner" is the one that collects.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kpconv.h"
#include "padded_rows.h"
#include "task_split.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Who collects from whom. `first` null: the queries, from their rows of a.neighbors. Else the supports: support j
// collects from queries index[first[j]] .. index[first[j + 1] - 1]; kernels are rigid then.
template <class T>
struct Walk {
  const KpConv<T>& a;
  const int64_t* first = nullptr;
  const int32_t* index = nullptr;
  bool modulated = true;  // influences carry the modulations
};

constexpr int kBlockVectors = kRegisters == 32 ? 4 : 8;  // vectors of a row that are summed in registers
template <class T>
constexpr int kBlockChannels = kBlockVectors* kLanes<T>;

constexpr int kAhead = 32;  // pairs: rows come from far apart, so they are asked for this early

// f(std::integral_constant<int, vectors>) for up to kBlockVectors vectors: how many registers a row takes.
template <int V = 1, class F>
void with_vectors(int vectors, const F& f) {
  if constexpr (V < kBlockVectors)
    if (vectors > V) return with_vectors<V + 1>(vectors, f);
  f(std::integral_constant<int, V>());
}

// The pairs (owner p, other point) through kernel point k are first(p, k) .. first(p, k + 1) - 1; pair e gathers row
// other(e) with influence(e). For each kernel point the owners that have pairs, its active ones, are numbered: slots.
template <class T>
class Tile {
 public:
  // channels 0: no room for sums.
  Tile(const Walk<T>& walk, int64_t points, int64_t channels)
      : walk_(walk),
        points_(points),
        width_(std::min<int64_t>(kBlockChannels<T>, round_up(channels, kLanes<T>))),
        first_(points * walk.a.kernel_size + 1),
        active_(points * walk.a.kernel_size),
        count_(walk.a.kernel_size),
        kernel_(walk.a.kernel_size * walk.a.dim),
        sums_(points * walk.a.kernel_size * width_) {}

  // Finds the pairs of owners begin .. end - 1. False: an index lay out of range.
  bool find_pairs(int64_t begin, int64_t end) {
    if (walk_.a.dim == 3) return find_pairs_of<3>(begin, end);
    return walk_.a.dim == 2 ? find_pairs_of<2>(begin, end) : find_pairs_of<1>(begin, end);
  }

  // sums(k, slot)[c] = sum over the pairs of (active(k)[slot], k) of influence * rows[other][channel + c].
  void aggregate(const Rows<T>& rows, int64_t channel, int vectors) {
    with_vectors(vectors, [&](auto v) { aggregate_block<v>(rows, channel); });
  }

  int64_t size() const { return size_; }
  int64_t pairs() const { return pairs_; }
  int32_t first(int64_t p, int64_t k) const { return first_.data()[p * walk_.a.kernel_size + k]; }
  T influence(int64_t e) const { return influence_.data()[e]; }
  int32_t other(int64_t e) const { return other_.data()[e]; }
  int64_t count(int64_t k) const { return count_.data()[k]; }
  const int32_t* active(int64_t k) const { return active_.data() + k * points_; }
  T* sums(int64_t k, int64_t slot) { return sums_.data() + (k * points_ + slot) * width_; }
  int64_t width() const { return width_; }

 private:
  template <int D>
  bool find_pairs_of(int64_t begin, int64_t end) {
    const KpConv<T>& a = walk_.a;
    const int64_t kernel_size = a.kernel_size;
    bool in_range = true;
    int64_t pairs = 0;
    size_ = end - begin;
    first_[0] = 0;
    std::fill_n(count_.data(), kernel_size, 0);
    for (int64_t p = 0; p < size_; ++p) {
      const int64_t owner = begin + p, before = pairs;
      const int64_t near = gather<D>(owner, in_range);
      const int64_t room = pairs + near * kernel_size + kAhead + kLanes<T>;
      influence_.grow(room), other_.grow(room), sum_of_.grow(room);
      const T* kernel = a.kernel_points;
      if (a.kernel_offsets) {
        const T* offsets = a.kernel_offsets + owner * kernel_size * D;
        for (int64_t i = 0; i < kernel_size * D; ++i) kernel_[i] = kernel[i] + offsets[i];
        kernel = kernel_.data();
      }
      int32_t* first = &first_[p * kernel_size];
      for (int64_t k = 0; k < kernel_size; ++k) {
        const int64_t start = pairs;
        pairs = select<D>(kernel + k * D, near, pairs);
        first[k + 1] = static_cast<int32_t>(pairs);
        const int32_t slot = count_[k], sum = static_cast<int32_t>(k * points_ + slot);
        active_[sum] = static_cast<int32_t>(p);  // overwritten by the next point where this one has no pairs
        count_[k] = slot + (start < pairs);
        int64_t e = start;
        do std::fill_n(&sum_of_[e], kLanes<T>, sum);
        while ((e += kLanes<T>) < pairs);
      }
      const T scale = T(1) / a.sigma;
      T* influence = influence_.data();
      for (int64_t e = before; e < pairs; ++e) influence[e] = std::max(T(0), T(1) - std::sqrt(influence[e]) * scale);
      if (a.modulations && walk_.modulated)
        for (int64_t k = 0; k < kernel_size; ++k)
          for (int64_t e = first[k]; e < first[k + 1]; ++e)
            influence[e] *= a.modulations[owner * kernel_size + k];
    }
    pairs_ = pairs;
    if (pairs) std::fill_n(&other_[pairs], kAhead, 0);  // what aggregate fetches ahead
    return in_range;
  }

  // Displacements query -> support between the owner and the points it may collect from, one array a coordinate, padded
  // to whole vectors with points at infinity; returns how many there are.
  template <int D>
  int64_t gather(int64_t owner, bool& in_range) {
    const KpConv<T>& a = walk_.a;
    const int64_t listed = walk_.first ? walk_.first[owner + 1] - walk_.first[owner] : a.num_neighbors;
    if (listed + kLanes<T> > capacity_) {
      capacity_ = round_up(2 * listed + kLanes<T>, kLanes<T>);
      displacement_.grow(D * capacity_);
      near_.grow(capacity_);
    }
    const int64_t capacity = capacity_;
    T* displacement = displacement_.data();
    int32_t* near = near_.data();
    int64_t n = 0;
    if (walk_.first) {
      const T* support = a.support + owner * D;
      const int32_t* index = walk_.index + walk_.first[owner];
      for (n = 0; n < listed; ++n) {
        const T* query = a.query + int64_t{index[n]} * D;
        for (int d = 0; d < D; ++d) displacement[d * capacity + n] = support[d] - query[d];
        near[n] = index[n];
      }
    } else {
      const T* query = a.query + owner * D;
      const int64_t* index = a.neighbors + owner * listed;
      for (int64_t h = 0; h < listed; ++h) {
        const int64_t j = index[h];
        if (static_cast<uint64_t>(j) >= static_cast<uint64_t>(a.num_support)) {
          in_range &= j == a.num_support;
          continue;
        }
        for (int d = 0; d < D; ++d) displacement[d * capacity + n] = a.support[j * D + d] - query[d];
        near[n++] = static_cast<int32_t>(j);
      }
    }
    for (int64_t h = n; h < round_up(n, kLanes<T>); ++h) {
      for (int d = 0; d < D; ++d) displacement[d * capacity + h] = std::numeric_limits<T>::infinity();
      near[h] = 0;
    }
    return n;
  }

  // Appends the near points within sigma of a kernel point, with their squared distances; returns the new end.
  template <int D>
  int64_t select(const T* kernel_point, int64_t near, int64_t end) {
    const Vector<T> limit = broadcast(walk_.a.sigma * walk_.a.sigma);
    const T* displacement = displacement_.data();
    const int64_t capacity = capacity_;
    const int32_t* index = near_.data();
    T* sq_dists = influence_.data();
    int32_t* other = other_.data();
    Vector<T> point[D];
    for (int d = 0; d < D; ++d) point[d] = broadcast(kernel_point[d]);
    for (int64_t h = 0; h < near; h += kLanes<T>) {
      Vector<T> sq_dist{};
      for (int d = 0; d < D; ++d) {
        const Vector<T> difference = load(displacement + d * capacity + h) - point[d];
        sq_dist = multiply_add<T>(difference, difference, sq_dist);
      }
      end += compress<T>(sq_dist, limit, index + h, sq_dists + end, other + end);
    }
    return end;
  }

  template <int V>
  void aggregate_block(const Rows<T>& rows, int64_t channel) {
    const T* influence = influence_.data();
    const int32_t *other = other_.data(), *sum_of = sum_of_.data();
    const T* base = rows.data + channel;
    T* sums = sums_.data();
    const int64_t stride = rows.stride, width = width_, pairs = pairs_;
    Vector<T> sum[V] = {};
    int32_t before = -1;
    // A few pairs share a sum; how many cannot be guessed. So each pair writes its sum, and the last one's stays.
    for (int64_t e = 0; e < pairs; ++e) {
      const Vector<T> factor = broadcast(influence[e]);
      const T *row = base + other[e] * stride, *later = base + other[e + kAhead] * stride;
      for (int v = 0; v < V; ++v) __builtin_prefetch(later + v * kLanes<T>);
      const int32_t at = sum_of[e];
      T* out = sums + at * width;
      const bool same = at == before;
      before = at;
      for (int v = 0; v < V; ++v) {
        sum[v] = multiply_add<T>(factor, load(row + v * kLanes<T>), keep_if<T>(same, sum[v]));
        store(out + v * kLanes<T>, sum[v]);
      }
    }
  }

  const Walk<T>& walk_;
  int64_t points_, width_, size_ = 0, pairs_ = 0, capacity_ = 0;
  Buffer<int32_t> first_, active_, count_;
  Buffer<T> kernel_, sums_, displacement_, influence_;
  Buffer<int32_t> near_, other_, sum_of_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
