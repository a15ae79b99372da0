// One tile of a kernel point convolution: which pairs of points influence each other through which kernel point, and
// the weighted sums of the features those pairs gather. Included by kpconv.cpp only.
//
// The convolution and its gradient are the same walk in two directions: queries collect from their neighbours, or
// supports collect (the gradient) from the queries that list them. "Owner" is the one that collects.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kpconv.h"
#include "matrix_block.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Who collects from whom. `first` null: the queries, from their rows of a.neighbors. Else the supports: support j
// collects from queries index[first[j]] .. index[first[j + 1] - 1].
template <class T>
struct Walk {
  const KpConv<T>& a;
  const int64_t* first = nullptr;
  const int32_t* index = nullptr;
  bool modulated = true;  // influences carry the modulations

  int64_t owners() const { return first ? a.num_support : a.num_query; }
};

// Rows of features that may be read in whole vectors.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int64_t channels;
};

template <class T>
class PaddedRows {
 public:
  PaddedRows(const T* data, int64_t rows, int64_t channels, const Parallel& parallel)
      : rows_{data, channels, channels} {
    if (channels % kLanes<T> == 0) return;
    const int64_t stride = round_up(channels, kLanes<T>);
    copy_.grow(rows * stride);
    T* copy = copy_.data();
    parallel.ranges(rows, 1024, [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        std::copy_n(data + r * channels, channels, copy + r * stride);
        std::fill(copy + r * stride + channels, copy + (r + 1) * stride, T(0));
      }
    });
    rows_ = {copy, stride, channels};
  }
  const Rows<T>& operator*() const { return rows_; }

 private:
  Buffer<T> copy_;
  Rows<T> rows_;
};

constexpr int kBlockVectors = kRegisters == 32 ? 4 : 8;  // vectors of a feature row that are summed in registers
template <class T>
constexpr int kBlockChannels = kBlockVectors* kLanes<T>;

// Points in a tile: their sums for one channel block and all kernel points stay in the second-level cache.
template <class T>
int64_t tile_points(int64_t owners, int64_t kernel_size, int64_t channels) {
  const int64_t width = std::min<int64_t>(kBlockChannels<T>, round_up(channels, kLanes<T>));
  const int64_t cached = 400'000 / (kernel_size * width * static_cast<int64_t>(sizeof(T)));
  const int64_t shared = round_up((owners + 15) / 16, 12);  // a small cloud still makes work for several threads
  return std::clamp<int64_t>(std::min(cached, shared), 12, 192);
}

// influence[e] > 0 of pair e, which gathers row other[e]; the pairs of (point p, kernel point k) are
// first[p * kernel_size + k] .. first[p * kernel_size + k + 1] - 1.
template <class T>
class Tile {
 public:
  Tile(const Walk<T>& walk, int64_t points, int64_t channels)
      : walk_(walk),
        points_(points),
        width_(std::min<int64_t>(kBlockChannels<T>, round_up(channels, kLanes<T>))),
        first_(points * walk.a.kernel_size + 1),
        sums_(points * walk.a.kernel_size * width_),
        active_(points * walk.a.kernel_size),
        count_(walk.a.kernel_size),
        kernel_(walk.a.kernel_size * walk.a.dim) {}

  // Finds the pairs of owners begin .. end - 1. False: an index lay out of range.
  bool find_pairs(int64_t begin, int64_t end) {
    if (walk_.a.dim == 3) return find_pairs_of<3>(begin, end);
    return walk_.a.dim == 2 ? find_pairs_of<2>(begin, end) : find_pairs_of<1>(begin, end);
  }

  // For each kernel point, the points that it has pairs for: active(k)[slot], slot < count(k).
  void list_active() {
    const int64_t kernel_size = walk_.a.kernel_size;
    std::fill_n(count_.data(), kernel_size, 0);
    for (int64_t p = 0; p < size_; ++p)
      for (int64_t k = 0; k < kernel_size; ++k)
        if (first(p, k) < first(p, k + 1)) active_[k * points_ + count_[k]++] = static_cast<int32_t>(p);
  }

  // sums(k, slot)[c] = sum over the pairs of (active(k)[slot], k) of influence * rows[other][channel + c].
  void aggregate(const Rows<T>& rows, int64_t channel, int vectors) {
    switch (vectors) {
      case 1: return aggregate_block<1>(rows, channel);
      case 2: return aggregate_block<2>(rows, channel);
      case 3: return aggregate_block<3>(rows, channel);
      case 4: return aggregate_block<4>(rows, channel);
      case 5: return aggregate_block<5>(rows, channel);
      case 6: return aggregate_block<6>(rows, channel);
      case 7: return aggregate_block<7>(rows, channel);
      default: return aggregate_block<8>(rows, channel);
    }
  }

  int64_t size() const { return size_; }
  int64_t pairs() const { return first_.data()[size_ * walk_.a.kernel_size]; }
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
    for (int64_t p = 0; p < size_; ++p) {
      const int64_t owner = begin + p;
      const int64_t near = gather<D>(owner, in_range);
      influence_.grow(pairs + near * kernel_size + 2 * kLanes<T>);
      other_.grow(pairs + near * kernel_size + 2 * kLanes<T>);
      const int64_t before = pairs;
      int32_t* first = &first_[p * kernel_size];
      if (walk_.first && a.kernel_offsets) {
        for (int64_t k = 0; k < kernel_size; ++k) first[k + 1] = (pairs = select<D, true>(k, owner, near, pairs));
      } else {
        const T* kernel = a.kernel_points;
        if (a.kernel_offsets) {
          for (int64_t i = 0; i < kernel_size * D; ++i)
            kernel_[i] = kernel[i] + a.kernel_offsets[owner * kernel_size * D + i];
          kernel = kernel_.data();
        }
        for (int64_t k = 0; k < kernel_size; ++k)
          first[k + 1] = (pairs = select<D, false>(k, owner, near, pairs, kernel));
      }
      const T scale = T(1) / a.sigma;
      T* influence = influence_.data();
      for (int64_t e = before; e < pairs; ++e) influence[e] = std::max(T(0), T(1) - std::sqrt(influence[e]) * scale);
      if (a.modulations && walk_.modulated) modulate(p, owner);
    }
    return in_range;
  }

  // Displacements query -> support of the owner's existing neighbours, one array a coordinate, padded to whole vectors
  // with points at infinity; returns how many there are.
  template <int D>
  int64_t gather(int64_t owner, bool& in_range) {
    const KpConv<T>& a = walk_.a;
    const int64_t listed = walk_.first ? walk_.first[owner + 1] - walk_.first[owner] : a.num_neighbors;
    if (listed + kLanes<T> > capacity_) {
      capacity_ = round_up(2 * listed + kLanes<T>, kLanes<T>);
      displacement_.grow(D * capacity_);
      near_.grow(capacity_);
    }
    T* displacement = displacement_.data();
    int32_t* near = near_.data();
    const int64_t capacity = capacity_;
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

  // Appends the neighbours within sigma of kernel point k, with their squared distances; returns the new end.
  // OwnKernel: each neighbour (a query) has its own kernel point, else `kernel` has them.
  template <int D, bool OwnKernel>
  int64_t select(int64_t k, int64_t, int64_t near, int64_t end, const T* kernel = nullptr) {
    using V = Vector<T>;
    const KpConv<T>& a = walk_.a;
    const V limit = broadcast(a.sigma * a.sigma);
    V point[D];
    if constexpr (!OwnKernel)
      for (int d = 0; d < D; ++d) point[d] = broadcast(kernel[k * D + d]);
    for (int64_t h = 0; h < near; h += kLanes<T>) {
      if constexpr (OwnKernel) {
        for (int lane = 0; lane < kLanes<T>; ++lane) {
          const T* offset = a.kernel_offsets + (int64_t{near_[h + lane]} * a.kernel_size + k) * D;
          for (int d = 0; d < D; ++d) point[d][lane] = a.kernel_points[k * D + d] + offset[d];
        }
      }
      V sq_dist{};
      for (int d = 0; d < D; ++d) {
        const V difference = load(displacement_.data() + d * capacity_ + h) - point[d];
        sq_dist = multiply_add<T>(difference, difference, sq_dist);
      }
      end += compress<T>(sq_dist, limit, near_.data() + h, influence_.data() + end, other_.data() + end);
    }
    return end;
  }

  void modulate(int64_t p, int64_t owner) {
    const KpConv<T>& a = walk_.a;
    for (int64_t k = 0; k < a.kernel_size; ++k)
      for (int64_t e = first(p, k); e < first(p, k + 1); ++e)
        influence_[e] *= a.modulations[(walk_.first ? other_[e] : owner) * a.kernel_size + k];
  }

  template <int V>
  void aggregate_block(const Rows<T>& rows, int64_t channel) {
    if constexpr (V <= kBlockVectors) {
      const int64_t kernel_size = walk_.a.kernel_size;
      const T* influence = influence_.data();
      const int32_t* other = other_.data();
      const T* base = rows.data + channel;
      std::fill_n(count_.data(), kernel_size, 0);
      for (int64_t p = 0; p < size_; ++p) {
        for (int64_t k = 0; k < kernel_size; ++k) {
          int64_t e = first(p, k);
          const int64_t last = first(p, k + 1);
          if (e == last) continue;
          Vector<T> sum[V];
          for (int v = 0; v < V; ++v) sum[v] = Vector<T>{};
          for (; e < last; ++e) {
            const Vector<T> factor = broadcast(influence[e]);
            const T* row = base + other[e] * rows.stride;
            for (int v = 0; v < V; ++v) sum[v] = multiply_add<T>(factor, load(row + v * kLanes<T>), sum[v]);
          }
          T* out = sums(k, count_[k]++);
          for (int v = 0; v < V; ++v) store(out + v * kLanes<T>, sum[v]);
        }
      }
    }
  }

  const Walk<T>& walk_;
  int64_t points_, width_, size_ = 0, capacity_ = 0;
  Buffer<int32_t> first_;
  Buffer<T> sums_;
  Buffer<int32_t> active_, count_;
  Buffer<T> kernel_, displacement_, influence_;
  Buffer<int32_t> near_, other_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
