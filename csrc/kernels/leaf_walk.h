// A walk through the index: which leaves are near a box or a point, and the distances to their points.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "nearest_list.h"
#include "point_index.h"
#include "simd.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int kMaxDim = 8;
constexpr int kGroup = kFanOut;  // queries that share a walk
constexpr int kMaxLeaves = 128;  // leaves around a group
constexpr int kMaxOpen = 512;    // boxes of one level that a walk keeps

// A bound from the triangle inequality must not lose to rounding, nor to squares too small for the format.
template <class T>
T safe_square(T r) {
  constexpr T kSlack = std::is_same_v<T, float> ? T(1.00001) : T(1.0000000001);
  constexpr T kTiny = std::numeric_limits<T>::min() * 16, kMax = std::numeric_limits<T>::max();
  return std::min(r * r * kSlack + kTiny, kMax);
}

// Leaves around a group of queries, with their boxes.
template <class T>
struct alignas(64) NearLeaves {
  T bounds[2 * kMaxDim][kMaxLeaves + kLaneCount];
  int32_t leaf[kMaxLeaves + kLaneCount];
  int32_t open[2][kMaxOpen + kLaneCount];
};

// The leaves of one cloud as a part of the index.
struct CloudRange {
  int64_t first, last;  // leaf
  int top;              // level whose boxes of this cloud lie in one group of 16

  CloudRange(int64_t begin, int64_t end) : first(begin), last(end - 1), top(0) {
    while (first >> kLogFanOut * (top + 1) != last >> kLogFanOut * (top + 1)) ++top;
  }
  int64_t top_group() const { return first >> kLogFanOut * (top + 1); }
  // Which of 16 boxes hold leaves of the cloud.
  PCSEG_INLINE Mask members(int level, int64_t group) const {
    const int64_t low = (first >> kLogFanOut * level) - group * kFanOut;
    const int64_t high = (last >> kLogFanOut * level) - group * kFanOut;
    Mask mask = kAllLanes;
    if (low > 0) mask &= kAllLanes << low;
    if (high < kFanOut - 1) mask &= (Mask{2} << high) - 1;
    return mask;
  }
};

// D: number of coordinates, 0 for any up to kMaxDim.
template <class T, int D>
class LeafWalk {
 public:
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr int kDims = D ? D : kMaxDim;

  struct Point {
    Lanes<T> x[kDims];
  };

  LeafWalk(const PointIndex<T>& index, int64_t dim) : index_(index), dim_(static_cast<int>(dim)) {}

  int dim() const { return D ? D : dim_; }
  const PointIndex<T>& index() const { return index_; }

  // Point `lane` of a leaf, in all lanes.
  PCSEG_INLINE Point point(const T* coords, int lane) const {
    Point p;
    for (int d = 0; d < dim(); ++d) p.x[d] = Lanes<T>::fill(coords[d * kFanOut + lane]);
    return p;
  }

  // Rounding keeps order, and every distance is computed alike: no point in a box is nearer than the box, bit for bit.
  PCSEG_INLINE Lanes<T> sq_dist_to_points(const T* coords, const Point& p) const {
    Lanes<T> sum = Lanes<T>::fill(0);
    for (int d = 0; d < dim(); ++d) {
      const Lanes<T> difference = Lanes<T>::load(coords + d * kFanOut) - p.x[d];
      sum = d == 0 ? difference * difference : sum + difference * difference;
    }
    return sum;
  }
  PCSEG_INLINE Lanes<T> sq_dist_to_boxes(const T* bounds, int64_t stride, const Point& low, const Point& high) const {
    Lanes<T> sum = Lanes<T>::fill(0);
    for (int d = 0; d < dim(); ++d) {
      const Lanes<T> below = Lanes<T>::load(bounds + d * stride) - high.x[d];
      const Lanes<T> above = low.x[d] - Lanes<T>::load(bounds + (dim() + d) * stride);
      const Lanes<T> outside = max(max(below, above), Lanes<T>::fill(0));
      sum = d == 0 ? outside * outside : sum + outside * outside;
    }
    return sum;
  }

  // Down the nearest box of every level: a leaf close to p. Of boxes that hold p the one whose centre is nearest.
  int64_t close_leaf(const Point& p, const CloudRange& range) const {
    int64_t group = range.top_group();
    for (int level = range.top;; --level) {
      const T* boxes = index_.boxes(level, group);
      Lanes<T> sum = sq_dist_to_boxes(boxes, kFanOut, p, p);
      for (int d = 0; d < dim(); ++d) {
        const Lanes<T> low = Lanes<T>::load(boxes + d * kFanOut), high = Lanes<T>::load(boxes + (dim() + d) * kFanOut);
        const Lanes<T> twice = (p.x[d] - low) + (p.x[d] - high);
        sum = sum + twice * twice * Lanes<T>::fill(T(1) / 64);
      }
      const Mask members = range.members(level, group);
      sum = keep(members, sum, kInfinity);
      const Mask nearest = equal(sum, Lanes<T>::fill(smallest(sum))) & members;
      group = group * kFanOut + __builtin_ctz(nearest != 0 ? nearest : members);
      if (level == 0) return group;
    }
  }

  // The cloud's leaves within the distance of the box [low, high], with their boxes, into w; -1 if there are too many.
  int collect(const Point& low, const Point& high, T max_sq_dist, const CloudRange& range, NearLeaves<T>& w) const {
    const Lanes<T> reach = Lanes<T>::fill(max_sq_dist);
    int current = 0, count = 1;
    w.open[0][0] = static_cast<int32_t>(range.top_group());
    for (int level = range.top; level > 0; --level) {
      int found = 0;
      for (int i = 0; i < count; ++i) {
        const int64_t group = w.open[current][i];
        const Lanes<T> sq_dist = sq_dist_to_boxes(index_.boxes(level, group), kFanOut, low, high);
        const Mask near = less_equal(sq_dist, reach) & range.members(level, group);
        compress(near, Lanes<int32_t>::iota() + Lanes<int32_t>::fill(static_cast<int32_t>(group * kFanOut)),
                 w.open[1 - current] + found);
        found += __builtin_popcount(near);
        if (found > kMaxOpen) return -1;
      }
      current = 1 - current;
      count = found;
    }
    int found = 0;
    for (int i = 0; i < count; ++i) {
      const int64_t group = w.open[current][i];
      const T* bounds = index_.boxes(0, group);
      const Mask near =
          less_equal(sq_dist_to_boxes(bounds, kFanOut, low, high), reach) & range.members(0, group);
      if (near == 0) continue;
      compress(near, Lanes<int32_t>::iota() + Lanes<int32_t>::fill(static_cast<int32_t>(group * kFanOut)),
               w.leaf + found);
      for (int b = 0; b < 2 * dim(); ++b) compress(near, Lanes<T>::load(bounds + b * kFanOut), w.bounds[b] + found);
      found += __builtin_popcount(near);
      if (found > kMaxLeaves) return -1;
    }
    for (int b = 0; b < 2 * dim(); ++b) Lanes<T>::fill(b < dim() ? kInfinity : -kInfinity).store(w.bounds[b] + found);
    return found;
  }

  // The nearest of the cloud's points, nearest boxes first, into a list that the caller has reset.
  void nearest(const Point& p, const CloudRange& range, NearestList<T>& list) const {
    descend(range.top, range.top_group(), p, range, list);
    list.finish();
  }

 private:
  void descend(int level, int64_t group, const Point& p, const CloudRange& range, NearestList<T>& list) const {
    Lanes<T> sq_dist = sq_dist_to_boxes(index_.boxes(level, group), kFanOut, p, p);
    sq_dist = keep(range.members(level, group), sq_dist, kInfinity);
    const int32_t* lowest_row = index_.lowest_rows(level, group);
    while (true) {
      const T nearest = smallest(sq_dist);
      if (!(nearest <= list.limit())) return;
      const int lane = __builtin_ctz(equal(sq_dist, Lanes<T>::fill(nearest)));
      sq_dist = replace(sq_dist, lane, kInfinity);
      if (nearest == list.limit() && lowest_row[lane] >= list.limit_row()) continue;
      const int64_t child = group * kFanOut + lane;
      if (level > 0)
        descend(level - 1, child, p, range, list);
      else
        list.push(sq_dist_to_points(index_.coords(child), p), index_.rows(child));
    }
  }

  const PointIndex<T>& index_;
  int dim_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
