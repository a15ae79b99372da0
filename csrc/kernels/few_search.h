// The nearest one to three neighbours: bounds from leaves close by, one query a lane, then each query by itself.
#pragma once

#include "search_base.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int kFew = 3;  // neighbours for which a leaf close by bounds the distance well

template <class T, int D>
class FewSearch : public SearchBase<T, D> {
 public:
  struct alignas(64) Workspace {
    NearLeaves<T> near;
    Candidates<T> candidates;
    T box_sq_dist[kGroup][kMaxLeaves + kLaneCount];  // to the boxes of `near`, query by query
    T bound[kGroup];                                 // squared distance within which a query has k points
    T best[kMaxRanked];
    int32_t best_row[kMaxRanked];
    int32_t leaf[kMaxLeaves + kLaneCount];
    int64_t seed;  // a leaf with neighbours of the group before, or -1
    NearestList<T> list;
  };

  using SearchBase<T, D>::SearchBase;

  // The next group is not near the last one.
  static void forget(Workspace& w) { w.seed = -1; }

  void search(int64_t query_leaf, int begin, int end, const CloudRange& range, Workspace& w) const {
    const Group g = this->group(query_leaf, begin, end);
    bounds(g, range, w).store(w.bound);
    int leaves = collect(g, range, w);
    if (leaves < 0 && g.size() > 1) {
      bounds_by_centre(g, range, w);
      leaves = collect(g, range, w);
    }
    if (leaves > 0) return search_among(g, leaves, w);
    if (leaves == 0) {
      for (int i = begin; i < end; ++i) this->write(g.rows[i], 0, nullptr, nullptr);
    } else if (g.size() > 1) {
      const int middle = (begin + end) / 2;
      search(query_leaf, begin, middle, range, w);
      search(query_leaf, middle, end, range, w);
    } else {
      this->search_alone(query_leaf, begin, range, w.list);
    }
  }

 private:
  using Base = SearchBase<T, D>;
  using Point = typename Base::Point;
  using Group = typename Base::Group;
  using Base::a_, Base::index_, Base::kInfinity, Base::self_, Base::walk_, Base::dim;
  static constexpr int kSeeds = 3;  // leaves close by

  int collect(const Group& g, const CloudRange& range, Workspace& w) const {
    return walk_.collect(g.low, g.high, *std::max_element(w.bound + g.begin, w.bound + g.end), range, w.near);
  }

  // The k-th smallest squared distance in leaves close by, or the limit. One query a lane.
  Lanes<T> bounds(const Group& g, const CloudRange& range, const Workspace& w) const {
    Lanes<T> best[kFew];
    for (auto& b : best) b = Lanes<T>::fill(this->limit());
    int64_t leaves[kSeeds];
    for (int seed = 0; seed < kSeeds; ++seed) {
      if (seed == 0 && (self_ || w.seed >= 0)) {
        leaves[seed] = self_ ? g.leaf : w.seed;
      } else {
        const Lanes<T> bound = keep(g.lanes(), best[a_.k - 1], T(-1));
        const int farthest = __builtin_ctz(equal(bound, Lanes<T>::fill(largest(bound))));
        const int lane = seed == 0 ? (g.begin + g.end) / 2 : farthest;
        leaves[seed] = walk_.close_leaf(walk_.point(g.coords, lane), range);
        if (std::find(leaves, leaves + seed, leaves[seed]) != leaves + seed) break;
      }
      const T* points = index_.coords(leaves[seed]);
      for (int i = 0; i < kFanOut; ++i) {
        Lanes<T> sq_dist = walk_.sq_dist_to_points(g.coords, walk_.point(points, i));
        for (int j = 0; j < a_.k; ++j) {
          const Lanes<T> larger = max(sq_dist, best[j]);
          best[j] = min(sq_dist, best[j]);
          sq_dist = larger;
        }
      }
    }
    return best[a_.k - 1];
  }

  // Bounds by way of the group's centre, for groups that leaves close by bound too loosely.
  void bounds_by_centre(const Group& g, const CloudRange& range, Workspace& w) const {
    const Point centre = this->centre_of(g);
    const T radius = this->radius_of_k(centre, -1, range, w.list);
    if (!(radius < kInfinity)) return;
    alignas(64) T distance[kGroup];
    square_root(walk_.sq_dist_to_points(g.coords, centre)).store(distance);
    for (int i = g.begin; i < g.end; ++i) w.bound[i] = std::min(w.bound[i], safe_square(radius + distance[i]));
  }

  // Squared distances to the boxes of w.near; returns a nearest of them.
  int nearest_box(const Point& p, int leaves, const Workspace& w, T* sq_dist) const {
    Lanes<T> nearest = Lanes<T>::fill(kInfinity);
    Lanes<IntOf<T>> slot = Lanes<IntOf<T>>::fill(0), slots = Lanes<IntOf<T>>::iota();
    for (int first = 0; first < leaves; first += kLaneCount) {
      const Lanes<T> here = walk_.sq_dist_to_boxes(w.near.bounds[0] + first, kMaxLeaves + kLaneCount, p, p);
      here.store(sq_dist + first);
      take_lesser(nearest, slot, here, slots);
      slots = slots + Lanes<IntOf<T>>::fill(kLaneCount);
    }
    alignas(64) IntOf<T> slot_of[kLaneCount];
    slot.store(slot_of);
    return static_cast<int>(slot_of[__builtin_ctz(equal(nearest, Lanes<T>::fill(smallest(nearest))) | 1 << 15)]);
  }

  // The k-th smallest.
  T kth(Lanes<T> x) const {
    for (int i = 1; i < a_.k; ++i) x = replace(x, __builtin_ctz(equal(x, Lanes<T>::fill(smallest(x)))), kInfinity);
    return smallest(x);
  }

  void search_among(const Group& g, int leaves, Workspace& w) const {
    // The leaf whose box is nearest bounds a query better still: four leaves are left of fourteen.
    int slot = 0;
    for (int i = g.begin; i < g.end; ++i) {
      const Point p = walk_.point(g.coords, i);
      slot = nearest_box(p, leaves, w, w.box_sq_dist[i]);
      w.bound[i] = std::min(w.bound[i], kth(walk_.sq_dist_to_points(index_.coords(w.near.leaf[slot]), p)));
    }
    w.seed = w.near.leaf[slot];
    if (a_.k == 1) {
      for (int i = g.begin; i < g.end; ++i) search_one(g, i, leaves_within(i, leaves, w), w);
      return;
    }
    bool ties = false;
    Found before{0, 0};
    const auto finish = [&](int i, Found found) {
      Candidates<T>& c = w.candidates;
      sort_by_rank(c.sq_dist[found.buffer], c.row[found.buffer], found.count, ties, w.best, w.best_row);
      this->write(g.rows[i], std::min<int64_t>(found.count, a_.k), w.best, w.best_row);
    };
    for (int i = g.begin; i < g.end; ++i) {
      const int near = leaves_within(i, leaves, w);
      const Found found =
          this->gather(walk_.point(g.coords, i), w.bound[i], w.leaf, near, (i & 1) * 2, w.candidates, ties);
      if (i > g.begin) finish(i - 1, before);
      before = found;
    }
    finish(g.end - 1, before);
  }

  // Leaves of w.near within the query's bound, into w.leaf; returns how many.
  int leaves_within(int i, int leaves, Workspace& w) const {
    const Lanes<T> bound = Lanes<T>::fill(w.bound[i]);
    int near = 0;
    for (int first = 0; first < leaves; first += kLaneCount) {
      const Mask mask = less_equal(Lanes<T>::load(w.box_sq_dist[i] + first), bound);
      compress(mask, Lanes<int32_t>::load(w.near.leaf + first), w.leaf + near);
      near += __builtin_popcount(mask);
    }
    return near;
  }

  // One neighbour needs no list: each lane keeps its best.
  void search_one(const Group& g, int i, int near, const Workspace& w) const {
    constexpr IntOf<T> kNobody = std::numeric_limits<int32_t>::max();
    const Point p = walk_.point(g.coords, i);
    Lanes<T> best = Lanes<T>::fill(w.bound[i]);
    Lanes<IntOf<T>> best_row = Lanes<IntOf<T>>::fill(kNobody);
    for (int j = 0; j < near; ++j)
      take_lesser(best, best_row, walk_.sq_dist_to_points(index_.coords(w.leaf[j]), p),
                  load_ints<T>(index_.rows(w.leaf[j])));
    const T sq_dist = smallest(best);
    const Mask nearest = equal(best, Lanes<T>::fill(sq_dist));
    const auto row = static_cast<int32_t>(smallest(keep(nearest, best_row, kNobody)));
    this->write(g.rows[i], row != kNobody, &sq_dist, &row);
  }
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
