// Up to kMaxRankedK neighbours: the leaves around a group of queries once, then each query by itself, with bounds from the
// queries that are done.
#pragma once

#include "search_base.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T, int D>
class RankedSearch : public SearchBase<T, D> {
 public:
  struct alignas(64) Workspace {
    NearLeaves<T> near;
    Candidates<T> candidates;
    int32_t leaf[kMaxLeaves + kLaneCount];
    // Results of the group, and the distance to each query's last neighbour: infinite where there is none, or none yet.
    T best[kGroup][kMaxRanked];
    int32_t best_row[kGroup][kMaxRanked];
    int best_count[kGroup];
    T radius[kGroup];
    // The same of the group before, with its queries: near, most often.
    T before_radius[kGroup];
    T before_coords[kMaxDim * kGroup];
    NearestList<T> list;
  };

  using SearchBase<T, D>::SearchBase;

  // The next group is not near the last one.
  static void forget(Workspace& w) { std::fill_n(w.before_radius, kGroup, kInfinity); }

  // A whole leaf of queries.
  void search(int64_t query_leaf, int begin, int end, const CloudRange& range, Workspace& w) const {
    std::fill_n(w.radius, kGroup, kInfinity);
    search_part(query_leaf, begin, end, range, w);
    std::copy_n(queries_.coords(query_leaf), dim() * kGroup, w.before_coords);
    std::copy_n(w.radius, kGroup, w.before_radius);
  }

 private:
  using Base = SearchBase<T, D>;
  using Point = typename Base::Point;
  using Group = typename Base::Group;
  using Base::a_, Base::queries_, Base::kInfinity, Base::self_, Base::walk_, Base::dim, Base::limit;

  static constexpr int kManyLeaves = 112;  // around a group, beyond which a closer bound is worth a search
  static constexpr T kGuess = T(1.35);  // of squared radii: a little more to rank, fewer that find too few and look again

  // w.radius has the distance to the last neighbour of those queries of the leaf that are done.
  void search_part(int64_t query_leaf, int begin, int end, const CloudRange& range, Workspace& w) const {
    const Group g = this->group(query_leaf, begin, end);
    const Point centre = this->centre_of(g);
    T centre_radius = kInfinity;
    const int leaves = collect(g, centre, centre_radius, range, w);
    if (leaves >= 0) return search_among(g, leaves, centre, centre_radius, w);
    if (g.size() == 1) return this->search_alone(query_leaf, begin, range, w.list);
    const int middle = (begin + end) / 2;
    search_part(query_leaf, begin, middle, range, w);
    search_part(query_leaf, middle, end, range, w);
  }

  // Leaves with the k nearest of each query. centre_radius: within it of the centre are k points; infinite if not known.
  int collect(const Group& g, const Point& centre, T& centre_radius, const CloudRange& range, Workspace& w) const {
    if (a_.max_sq_dist < kInfinity) {
      const int leaves = walk_.collect(g.low, g.high, limit(), range, w.near);
      if (leaves >= 0 && leaves * kFanOut <= 16 * a_.k + 256) return leaves;
    }
    const T sq_half = largest(keep(g.lanes(), walk_.sq_dist_to_points(g.coords, centre), T(0)));
    const auto within_reach = [&](T radius) {
      centre_radius = radius;
      return walk_.collect(g.low, g.high, std::min(limit(), safe_square(radius + std::sqrt(sq_half))), range, w.near);
    };
    // k points lie within the distance to a query that is done, and from there to its last neighbour.
    const T bound = std::min(within(w.before_coords, w.before_radius, centre), within(g.coords, w.radius, centre));
    if (bound < kInfinity) {
      const int leaves = within_reach(bound);
      if (leaves >= 0 && leaves <= kManyLeaves) return leaves;
    }
    return within_reach(this->radius_of_k(centre, self_ ? g.leaf : -1, range, w.list));
  }

  // The smallest distance from p by way of one of 16 points and its radius.
  T within(const T* coords, const T* radius, const Point& p) const {
    return smallest(square_root(walk_.sq_dist_to_points(coords, p)) + Lanes<T>::load(radius));
  }

  void search_among(const Group& g, int leaves, const Point& centre, T centre_radius, Workspace& w) const {
    Lanes<T> radii = Lanes<T>::load(w.radius);
    bool ties = false;
    Found before{0, 0};
    const auto finish = [&](int i, Found found) {
      Candidates<T>& c = w.candidates;
      sort_by_rank(c.sq_dist[found.buffer], c.row[found.buffer], found.count, ties, w.best[i], w.best_row[i]);
      w.best_count[i] = static_cast<int>(std::min<int64_t>(found.count, a_.k));
      if (found.count < a_.k) return;
      w.radius[i] = std::sqrt(w.best[i][a_.k - 1]);
      radii = replace(radii, i, w.radius[i]);
    };
    alignas(64) T centre_distance[kGroup];
    square_root(walk_.sq_dist_to_points(g.coords, centre)).store(centre_distance);
    for (int i = g.begin; i < g.end; ++i) {
      const Point p = walk_.point(g.coords, i);
      // k points lie within the safe bound; probably as many within the radius of the nearest query that is done.
      T reach = centre_radius + centre_distance[i], guess = centre_radius;
      const auto look = [&](const T* done, Lanes<T> radius_of_done, const T* radius) {
        const Lanes<T> via = square_root(walk_.sq_dist_to_points(done, p)) + radius_of_done;
        const T nearest = smallest(via);
        if (!(nearest <= reach)) return;
        reach = nearest;
        guess = radius[__builtin_ctz(equal(via, Lanes<T>::fill(nearest)))];
      };
      if (i == g.begin) look(w.before_coords, Lanes<T>::load(w.before_radius), w.before_radius);
      look(g.coords, radii, w.radius);
      const T safe = std::min(limit(), safe_square(reach));
      T bound = std::min(safe, guess * guess * kGuess);
      Found found = find(p, bound, leaves, i, w, ties);
      if (found.count < a_.k && bound < safe) found = find(p, safe, leaves, i, w, ties);
      if (i > g.begin) finish(i - 1, before);
      before = found;
    }
    finish(g.end - 1, before);
    for (int i = g.begin; i < g.end; ++i) this->write(g.rows[i], w.best_count[i], w.best[i], w.best_row[i]);
  }

  Found find(const Point& p, T bound, int leaves, int i, Workspace& w, bool& ties) const {
    const int near = leaves_within(p, bound, leaves, w);
    return this->gather(p, bound, w.leaf, near, (i & 1) * 2, w.candidates, ties);
  }

  // Leaves of w.near whose boxes are within the bound, into w.leaf; returns how many.
  int leaves_within(const Point& p, T bound, int leaves, Workspace& w) const {
    const Lanes<T> limit = Lanes<T>::fill(bound);
    int near = 0;
    for (int first = 0; first < leaves; first += kLaneCount) {
      const Mask mask = less_equal(walk_.sq_dist_to_boxes(w.near.bounds[0] + first, kMaxLeaves + kLaneCount, p, p), limit);
      compress(mask, Lanes<int32_t>::load(w.near.leaf + first), w.leaf + near);
      near += __builtin_popcount(mask);
    }
    return near;
  }
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
