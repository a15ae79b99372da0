// What searches for few and for many neighbours share: the queries, the results, and a search for one query alone.
#pragma once

#include <cmath>

#include "leaf_walk.h"
#include "nearest_list.h"
#include "neighbor_search.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Candidates of a query and of the one before, each with room to shrink into. Ranking reads what vector stores have just
// written: one query later they have arrived.
template <class T>
struct alignas(64) Candidates {
  T sq_dist[4][kMaxRanked + 2 * kLaneCount];
  int32_t row[4][kMaxRanked + 2 * kLaneCount];
};
struct Found {  // candidates in a buffer
  int buffer, count;
};

// Queries begin .. end of a leaf, which are searched together.
template <class T, int D>
struct QueryGroup {
  using Point = typename LeafWalk<T, D>::Point;

  int64_t leaf;
  int begin, end;
  const T* coords;
  const int32_t* rows;
  Point low, high;  // their box

  int size() const { return end - begin; }
  Mask lanes() const { return (kAllLanes >> (kGroup - end)) & (kAllLanes << begin); }
};

// D: number of coordinates, 0 for any up to kMaxDim.
template <class T, int D>
class SearchBase {
 public:
  SearchBase(const NeighborSearch<T>& a, const PointIndex<T>& index, const PointIndex<T>& queries)
      : a_(a), walk_(index, a.dim), index_(index), queries_(queries), self_(&index == &queries) {}

  void write(int32_t query, int64_t count, const T* sq_dist, const int32_t* row) const {
    int64_t* index = a_.index + query * a_.k;
    for (int64_t i = 0; i < count; ++i) index[i] = row[i];
    for (int64_t i = count; i < a_.k; ++i) index[i] = a_.num_support;
    if (!a_.sq_dist) return;
    T* out = a_.sq_dist + query * a_.k;
    for (int64_t i = 0; i < count; ++i) out[i] = sq_dist[i];
    for (int64_t i = count; i < a_.k; ++i) out[i] = kInfinity;
  }

  void search_alone(int64_t query_leaf, int i, const CloudRange& range, NearestList<T>& list) const {
    list.reset(a_.k, limit());
    walk_.nearest(walk_.point(queries_.coords(query_leaf), i), range, list);
    write(queries_.rows(query_leaf)[i], list.size(), list.sq_dist(), list.row());
  }

 protected:
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();

  using Point = typename LeafWalk<T, D>::Point;
  using Group = QueryGroup<T, D>;

  int dim() const { return D ? D : static_cast<int>(a_.dim); }
  T limit() const { return std::min(a_.max_sq_dist, std::numeric_limits<T>::max()); }

  Group group(int64_t query_leaf, int begin, int end) const {
    Group g{query_leaf, begin, end, queries_.coords(query_leaf), queries_.rows(query_leaf), {}, {}};
    for (int d = 0; d < dim(); ++d) {
      const Lanes<T> x = Lanes<T>::load(g.coords + d * kFanOut);
      g.low.x[d] = Lanes<T>::fill(smallest(keep(g.lanes(), x, kInfinity)));
      g.high.x[d] = Lanes<T>::fill(largest(keep(g.lanes(), x, -kInfinity)));
    }
    return g;
  }
  Point centre_of(const Group& g) const {
    const Lanes<T> half = Lanes<T>::fill(T(0.5));
    Point centre;
    for (int d = 0; d < dim(); ++d) centre.x[d] = g.low.x[d] * half + g.high.x[d] * half;
    return centre;
  }

  // The distance from p within which there are k points; infinite where there are fewer, or none near enough to matter.
  // Leaves around `seed`, unless it is -1, make the search shorter.
  T radius_of_k(const Point& p, int64_t seed, const CloudRange& range, NearestList<T>& list) const {
    T bound = limit();
    if (seed >= 0) {
      list.reset(a_.k, bound);
      for (int64_t leaf = std::max(range.first, seed - 1); leaf <= std::min(range.last, seed + 1); ++leaf)
        list.push(walk_.sq_dist_to_points(index_.coords(leaf), p), index_.rows(leaf));
      list.finish();
      if (list.size() == a_.k) bound = list.sq_dist()[a_.k - 1];
    }
    list.reset(a_.k, bound);
    walk_.nearest(p, range, list);
    return list.size() == a_.k ? std::sqrt(list.sq_dist()[a_.k - 1]) : kInfinity;
  }

  // Points of these leaves within the bound, the best k among them: into a buffer, or into the next one.
  Found gather(const Point& p, T bound, const int32_t* leaves, int count_leaves, int buffer, Candidates<T>& c,
               bool& ties) const {
    Lanes<T> limit = Lanes<T>::fill(bound);
    int32_t limit_row = std::numeric_limits<int32_t>::max();
    int count = 0;
    for (int i = 0; i < count_leaves; ++i) {
      const Lanes<T> sq_dist = walk_.sq_dist_to_points(index_.coords(leaves[i]), p);
      const Lanes<int32_t> row = Lanes<int32_t>::load(index_.rows(leaves[i]));
      const Mask mask = less(sq_dist, limit) | (equal(sq_dist, limit) & less(row, Lanes<int32_t>::fill(limit_row)));
      compress(mask, sq_dist, c.sq_dist[buffer] + count);
      compress(mask, row, c.row[buffer] + count);
      count += __builtin_popcount(mask);
      if (count <= kMaxRanked - kLaneCount) continue;
      sort_by_rank(c.sq_dist[buffer], c.row[buffer], count, ties, c.sq_dist[buffer ^ 1], c.row[buffer ^ 1]);
      buffer ^= 1;
      count = static_cast<int>(a_.k);
      limit = Lanes<T>::fill(c.sq_dist[buffer][count - 1]);
      limit_row = c.row[buffer][count - 1];
    }
    return {buffer, count};
  }

  const NeighborSearch<T>& a_;
  const LeafWalk<T, D> walk_;
  const PointIndex<T>& index_;
  const PointIndex<T>& queries_;
  const bool self_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
