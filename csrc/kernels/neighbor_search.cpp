#include "neighbor_search.h"

#include <cmath>
#include <memory>
#include <vector>

#include "aligned_array.h"
#include "leaf_walk.h"
#include "nearest_list.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kGroupsPerTask = 16;

template <class T>
struct alignas(64) Workspace {
  NearLeaves<T> near;
  int32_t near_leaf[kMaxLeaves + kLaneCount];
  // Candidates of a query and of the one before, each with room to shrink into.
  T sq_dist[4][kMaxRanked + 2 * kLaneCount];
  int32_t row[4][kMaxRanked + 2 * kLaneCount];
  // Results of the group, and the distance to each query's last neighbour: infinite where there is none, or none yet.
  T best[kGroup][kMaxRanked];
  int32_t best_row[kGroup][kMaxRanked];
  int best_count[kGroup];
  T radius[kGroup];
  T bound[kGroup];  // squared; where few neighbours are wanted
  // The same of the group before, with its queries: near, most often.
  T before_radius[kGroup];
  T before_coords[kMaxDim * kGroup];
  NearestList<T> list;
};

// D: number of coordinates, 0 for any up to kMaxDim.
template <class T, int D>
class Search {
 public:
  Search(const NeighborSearch<T>& a, const PointIndex<T>& index, const PointIndex<T>& queries)
      : a_(a), walk_(index, a.dim), index_(index), queries_(queries), self_(&index == &queries) {}

  // All queries of one leaf of `queries`. w.before_* may hold the leaf before.
  void run(int64_t query_leaf, int64_t cloud, Workspace<T>& w) const {
    const int32_t* rows = queries_.rows(query_leaf);
    int count = 0;
    while (count < kGroup && rows[count] >= 0) ++count;
    const int64_t begin = index_.first_leaf(cloud), end = index_.first_leaf(cloud + 1);
    if (begin == end) {
      for (int i = 0; i < count; ++i) write(rows[i], 0, nullptr, nullptr);
      return;
    }
    const CloudRange range(begin, end);
    if (a_.k > kMaxRankedK) {
      for (int i = 0; i < count; ++i) search_alone(query_leaf, i, range, w);
      return;
    }
    std::fill_n(w.radius, kGroup, kInfinity);
    if (few()) bounds_of_few(query_leaf, count, range).store(w.bound);
    search_group(query_leaf, 0, count, range, w);
    std::copy_n(queries_.coords(query_leaf), dim() * kGroup, w.before_coords);
    std::copy_n(w.radius, kGroup, w.before_radius);
  }

  void write(int32_t query, int64_t count, const T* sq_dist, const int32_t* row) const {
    int64_t* index = a_.index + query * a_.k;
    for (int64_t i = 0; i < count; ++i) index[i] = row[i];
    for (int64_t i = count; i < a_.k; ++i) index[i] = a_.num_support;
    if (!a_.sq_dist) return;
    T* out = a_.sq_dist + query * a_.k;
    for (int64_t i = 0; i < count; ++i) out[i] = sq_dist[i];
    for (int64_t i = count; i < a_.k; ++i) out[i] = kInfinity;
  }

 private:
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr T kMax = std::numeric_limits<T>::max();
  static constexpr int kFew = 3;     // neighbours for which a leaf close by bounds the distance well
  static constexpr int kSeeds = 3;   // such leaves
  // Leaves around a group beyond which a closer bound is worth a search.
  static constexpr int kManyLeaves = 80, kManyLeavesOfFew = 48;

  using Point = typename LeafWalk<T, D>::Point;
  struct Found {  // candidates in a buffer of the workspace
    int buffer, count;
  };

  int dim() const { return D ? D : static_cast<int>(a_.dim); }
  bool few() const { return a_.k <= kFew; }
  T limit() const { return std::min(a_.max_sq_dist, kMax); }

  Point point(int64_t query_leaf, int i) const { return walk_.point(queries_.coords(query_leaf), i); }

  // For each query of the leaf a squared distance within which there are k <= kFew points: the k-th smallest in a leaf close
  // by, or the limit. One query a lane.
  Lanes<T> bounds_of_few(int64_t query_leaf, int count, const CloudRange& range) const {
    const T* coords = queries_.coords(query_leaf);
    Lanes<T> best[kFew];
    for (auto& b : best) b = Lanes<T>::fill(limit());
    int64_t leaves[kSeeds];
    for (int seed = 0; seed < kSeeds; ++seed) {
      const Lanes<T> bound = keep(kAllLanes >> (kGroup - count), best[a_.k - 1], T(-1));
      const int lane = seed == 0 ? count / 2 : __builtin_ctz(equal(bound, Lanes<T>::fill(largest(bound))));
      leaves[seed] = seed == 0 && self_ ? query_leaf : walk_.close_leaf(walk_.point(coords, lane), range);
      if (std::find(leaves, leaves + seed, leaves[seed]) != leaves + seed) break;
      const T* points = index_.coords(leaves[seed]);
      for (int i = 0; i < kFanOut; ++i) {
        Lanes<T> sq_dist = Lanes<T>::fill(0);
        for (int d = 0; d < dim(); ++d) {
          const Lanes<T> difference = Lanes<T>::fill(points[d * kFanOut + i]) - Lanes<T>::load(coords + d * kFanOut);
          sq_dist = d == 0 ? difference * difference : sq_dist + difference * difference;
        }
        for (int j = 0; j < a_.k; ++j) {
          const Lanes<T> larger = max(sq_dist, best[j]);
          best[j] = min(sq_dist, best[j]);
          sq_dist = larger;
        }
      }
    }
    return best[a_.k - 1];
  }

  // The nearest of the cloud's points, nearest boxes first, into w.list, which the caller has reset.
  void descend(int level, int64_t group, const Point& p, const CloudRange& range, NearestList<T>& list) const {
    Lanes<T> sq_dist = walk_.sq_dist_to_boxes(index_.boxes(level, group), kFanOut, p, p);
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
        list.push(walk_.sq_dist_to_points(index_.coords(child), p), index_.rows(child));
    }
  }

  void search_alone(int64_t query_leaf, int i, const CloudRange& range, Workspace<T>& w) const {
    w.list.reset(a_.k, limit());
    descend(range.top, range.top_group(), point(query_leaf, i), range, w.list);
    w.list.finish();
    write(queries_.rows(query_leaf)[i], w.list.size(), w.list.sq_dist(), w.list.row());
  }

  // The distance from p within which there are k points; infinite where there are fewer, or none near enough to matter.
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
    descend(range.top, range.top_group(), p, range, list);
    list.finish();
    return list.size() == a_.k ? std::sqrt(list.sq_dist()[a_.k - 1]) : kInfinity;
  }

  // Queries begin .. end of a leaf; w.radius has the distance to the last neighbour of those already done.
  void search_group(int64_t query_leaf, int begin, int end, const CloudRange& range, Workspace<T>& w) const {
    const T* coords = queries_.coords(query_leaf);
    Point low, high, centre;
    const Mask lanes = (kAllLanes >> (kGroup - end)) & (kAllLanes << begin);
    for (int d = 0; d < dim(); ++d) {
      const Lanes<T> x = Lanes<T>::load(coords + d * kFanOut);
      const T least = smallest(keep(lanes, x, kInfinity)), most = largest(keep(lanes, x, -kInfinity));
      low.x[d] = Lanes<T>::fill(least);
      high.x[d] = Lanes<T>::fill(most);
      centre.x[d] = Lanes<T>::fill(least / 2 + most / 2);
    }
    T centre_radius = kInfinity;
    const int leaves = collect(query_leaf, begin, end, low, high, centre, centre_radius, range, w);
    if (leaves < 0 && end - begin > 1) {
      const int middle = (begin + end) / 2;
      search_group(query_leaf, begin, middle, range, w);
      search_group(query_leaf, middle, end, range, w);
      return;
    }
    if (leaves < 0) return search_alone(query_leaf, begin, range, w);
    search_among(query_leaf, begin, end, leaves, centre, centre_radius, w);
  }

  // Leaves with the k nearest of each query. centre_radius: within it of the centre are k points; infinite if not known.
  int collect(int64_t query_leaf, int begin, int end, const Point& low, const Point& high, const Point& centre,
              T& centre_radius, const CloudRange& range, Workspace<T>& w) const {
    const T* coords = queries_.coords(query_leaf);
    if (few() || a_.max_sq_dist < kInfinity) {
      const T bound = few() ? *std::max_element(w.bound + begin, w.bound + end) : limit();
      const int leaves = walk_.collect(low, high, bound, range, w.near);
      if (leaves >= 0 && leaves * kFanOut <= (few() ? kManyLeavesOfFew * kFanOut : 16 * a_.k + 256)) return leaves;
    }
    T sq_half = 0;
    for (int i = begin; i < end; ++i) {
      T sum = 0;
      for (int d = 0; d < dim(); ++d) {
        const T difference = coords[d * kFanOut + i] - centre.x[d].v[0][0];
        sum += difference * difference;
      }
      sq_half = std::max(sq_half, sum);
    }
    const auto within_reach = [&](T radius) {
      centre_radius = radius;
      return walk_.collect(low, high, std::min(limit(), safe_square(radius + std::sqrt(sq_half))), range, w.near);
    };
    // k points lie within the distance to a query that is done, and from there to its last neighbour.
    const T bound = std::min(within(w.before_coords, w.before_radius, centre), within(coords, w.radius, centre));
    if (bound < kInfinity) {
      const int leaves = within_reach(bound);
      if (leaves >= 0 && leaves <= kManyLeaves) return leaves;
    }
    return within_reach(radius_of_k(centre, self_ ? query_leaf : -1, range, w.list));
  }

  // The smallest distance from p by way of one of 16 points and its radius.
  T within(const T* coords, const T* radius, const Point& p) const {
    return smallest(square_root(walk_.sq_dist_to_points(coords, p)) + Lanes<T>::load(radius));
  }

  void search_among(int64_t query_leaf, int begin, int end, int leaves, const Point& centre, T centre_radius,
                    Workspace<T>& w) const {
    const T* coords = queries_.coords(query_leaf);
    const int32_t* rows = queries_.rows(query_leaf);
    Lanes<T> radii = Lanes<T>::load(w.radius);
    bool ties = false;
    Found before{0, 0};
    // Selection reads candidates that vector stores have just written: one query later they have arrived.
    const auto finish = [&](int i, Found found) {
      sort_by_rank(w.sq_dist[found.buffer], w.row[found.buffer], found.count, ties, w.best[i], w.best_row[i]);
      w.best_count[i] = static_cast<int>(std::min<int64_t>(found.count, a_.k));
      if (found.count < a_.k) return;
      w.radius[i] = std::sqrt(w.best[i][a_.k - 1]);
      radii = replace(radii, i, w.radius[i]);
    };
    for (int i = begin; i < end; ++i) {
      const Point p = point(query_leaf, i);
      T bound, safe;
      if (few() && centre_radius == kInfinity) {
        bound = safe = w.bound[i];
      } else {
        T sq_centre = 0;
        for (int d = 0; d < dim(); ++d) {
          const T difference = p.x[d].v[0][0] - centre.x[d].v[0][0];
          sq_centre += difference * difference;
        }
        // k points lie within the safe bound; probably as many within the radius of the nearest query that is done.
        T reach = centre_radius + std::sqrt(sq_centre), guess = centre_radius;
        const auto look = [&](const T* done, Lanes<T> radius_of_done, const T* radius) {
          const Lanes<T> via = square_root(walk_.sq_dist_to_points(done, p)) + radius_of_done;
          const T nearest = smallest(via);
          if (!(nearest <= reach)) return;
          reach = nearest;
          guess = radius[__builtin_ctz(equal(via, Lanes<T>::fill(nearest)))];
        };
        if (i == begin) look(w.before_coords, Lanes<T>::load(w.before_radius), w.before_radius);
        look(coords, radii, w.radius);
        safe = std::min(limit(), safe_square(reach));
        if (few()) safe = std::min(safe, w.bound[i]);
        bound = std::min(safe, guess * guess * T(1.21));
      }
      Found found = gather(p, bound, leaves, (i & 1) * 2, w, ties);
      if (found.count < a_.k && bound < safe) found = gather(p, safe, leaves, (i & 1) * 2, w, ties);
      if (i > begin) finish(i - 1, before);
      before = found;
    }
    finish(end - 1, before);
    for (int i = begin; i < end; ++i) write(rows[i], w.best_count[i], w.best[i], w.best_row[i]);
  }

  // Candidates within the bound, the best k among them: from w.leaf into a buffer, or into the next one.
  Found gather(const Point& p, T bound, int leaves, int buffer, Workspace<T>& w, bool& ties) const {
    Lanes<T> limit = Lanes<T>::fill(bound);
    int near = 0;
    for (int first = 0; first < leaves; first += kLaneCount) {
      const Mask mask = less_equal(walk_.sq_dist_to_boxes(w.near.bounds[0] + first, kMaxLeaves + kLaneCount, p, p), limit);
      compress(mask, Lanes<int32_t>::load(w.near.leaf + first), w.near_leaf + near);
      near += __builtin_popcount(mask);
    }
    int32_t limit_row = std::numeric_limits<int32_t>::max();
    int count = 0;
    for (int i = 0; i < near; ++i) {
      const Lanes<T> sq_dist = walk_.sq_dist_to_points(index_.coords(w.near_leaf[i]), p);
      const Lanes<int32_t> row = Lanes<int32_t>::load(index_.rows(w.near_leaf[i]));
      const Mask mask = less(sq_dist, limit) | (equal(sq_dist, limit) & less(row, Lanes<int32_t>::fill(limit_row)));
      compress(mask, sq_dist, w.sq_dist[buffer] + count);
      compress(mask, row, w.row[buffer] + count);
      count += __builtin_popcount(mask);
      if (count <= kMaxRanked - kLaneCount) continue;
      sort_by_rank(w.sq_dist[buffer], w.row[buffer], count, ties, w.sq_dist[buffer ^ 1], w.row[buffer ^ 1]);
      buffer ^= 1;
      count = static_cast<int>(a_.k);
      limit = Lanes<T>::fill(w.sq_dist[buffer][count - 1]);
      limit_row = w.row[buffer][count - 1];
    }
    return {buffer, count};
  }

  const NeighborSearch<T>& a_;
  const LeafWalk<T, D> walk_;
  const PointIndex<T>& index_;
  const PointIndex<T>& queries_;
  bool self_;
};

template <class T>
PointIndex<T> build(const T* coords, const int64_t* offsets, int64_t points, bool with_boxes, const NeighborSearch<T>& a,
                    AlignedArray<unsigned char>& memory, const Parallel& parallel) {
  memory = AlignedArray<unsigned char>(
      static_cast<int64_t>(PointIndexLayout(points, a.num_clouds, a.dim, sizeof(T), with_boxes).bytes));
  build_point_index({coords, offsets, points, a.num_clouds, a.dim, with_boxes, memory.data()}, parallel);
  return {memory.data(), points, a.num_clouds, a.dim, with_boxes};
}

template <class T, int D>
void search(const NeighborSearch<T>& a, const Parallel& parallel) {
  const bool self = a.query == a.support && a.query_offsets == a.support_offsets && a.num_query == a.num_support;
  AlignedArray<unsigned char> index_memory, query_memory;
  const auto* given = static_cast<const unsigned char*>(a.support_index);
  const PointIndex<T> index =
      given ? PointIndex<T>(given, a.num_support, a.num_clouds, a.dim, true)
            : build(a.support, a.support_offsets, a.num_support, true, a, index_memory, parallel);
  const PointIndex<T> other =
      self ? index : build(a.query, a.query_offsets, a.num_query, false, a, query_memory, parallel);
  const PointIndex<T>& queries = self ? index : other;
  const Search<T, D> search(a, index, queries);

  std::vector<std::unique_ptr<Workspace<T>>> workspaces(parallel.threads());
  const int64_t groups = queries.num_leaves();
  parallel.tasks((groups + kGroupsPerTask - 1) / kGroupsPerTask, [&](int64_t task, int worker) {
    if (!workspaces[worker]) workspaces[worker].reset(new Workspace<T>());
    std::fill_n(workspaces[worker]->before_radius, kGroup, std::numeric_limits<T>::infinity());
    int64_t leaf = task * kGroupsPerTask;
    const int64_t end = std::min(groups, leaf + kGroupsPerTask);
    for (int64_t cloud = queries.cloud_of_leaf(leaf); leaf < end; ++leaf) {
      while (leaf >= queries.first_leaf(cloud + 1)) {
        ++cloud;
        std::fill_n(workspaces[worker]->before_radius, kGroup, std::numeric_limits<T>::infinity());
      }
      search.run(leaf, cloud, *workspaces[worker]);
    }
  });
  // Queries that are not finite are in no leaf.
  parallel.ranges(a.num_query, 65536, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T zero = 0;
      for (int64_t d = 0; d < a.dim; ++d) zero += a.query[row * a.dim + d] * T(0);
      if (!(zero == 0)) search.write(static_cast<int32_t>(row), 0, nullptr, nullptr);
    }
  });
}

}  // namespace

void neighbor_search(const NeighborSearch<float>& a, const Parallel& parallel) {
  if (a.dim == 2) return search<float, 2>(a, parallel);
  if (a.dim == 3) return search<float, 3>(a, parallel);
  search<float, 0>(a, parallel);
}
void neighbor_search(const NeighborSearch<double>& a, const Parallel& parallel) { search<double, 0>(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
