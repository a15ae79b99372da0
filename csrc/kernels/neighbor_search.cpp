#include "neighbor_search.h"

#include <cmath>
#include <memory>

#include "nearest_list.h"
#include "point_index.h"
#include "simd.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int kMaxDim = 8, kMaxLevels = 8;
constexpr int kGroup = kFanOut;        // queries that share a walk through the index
constexpr int kMaxLeaves = 128;        // leaves around a group; groups with more are halved
constexpr int kMaxOpen = 512;          // boxes of one level that a walk keeps
constexpr int64_t kGroupsPerTask = 16;

// A bound from the triangle inequality must not lose to rounding, nor to squares too small for the format.
template <class T>
T safe_square(T r) {
  constexpr T kSlack = std::is_same_v<T, float> ? T(1.00001) : T(1.0000000001);
  constexpr T kTiny = std::numeric_limits<T>::min() * 16, kMax = std::numeric_limits<T>::max();
  return std::min(r * r * kSlack + kTiny, kMax);
}

template <class T>
struct alignas(64) Workspace {
  // Leaves around the group, with their boxes.
  T bounds[2 * kMaxDim][kMaxLeaves + kLaneCount];
  int32_t leaf[kMaxLeaves + kLaneCount];
  int32_t near_leaf[kMaxLeaves + kLaneCount];
  int32_t open[2][kMaxOpen + kLaneCount];
  // Candidates of a query and of the one before, each with room to shrink into.
  T sq_dist[4][kMaxRanked + 2 * kLaneCount];
  int32_t row[4][kMaxRanked + 2 * kLaneCount];
  // Results of the group.
  T best[kGroup][kMaxRanked];
  int32_t best_row[kGroup][kMaxRanked];
  int best_count[kGroup];
  T radius[kGroup];
  NearestList<T> list;
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
class Search {
 public:
  Search(const NeighborSearch<T>& a, const PointIndex<T>& index, const PointIndex<T>& queries)
      : a_(a), index_(index), queries_(queries), self_(&index == &queries) {}

  // All queries of one leaf of `queries`.
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
    search_group(query_leaf, 0, count, range, w);
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
  static constexpr int kDims = D ? D : kMaxDim;

  struct Point {
    Lanes<T> x[kDims];
  };
  struct Found {  // candidates in a buffer of the workspace
    int buffer, count;
  };

  int dim() const { return D ? D : static_cast<int>(a_.dim); }
  T limit() const { return std::min(a_.max_sq_dist, kMax); }

  Point point(int64_t query_leaf, int i) const {
    Point p;
    for (int d = 0; d < dim(); ++d) p.x[d] = Lanes<T>::fill(queries_.coords(query_leaf)[d * kFanOut + i]);
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

  // The nearest of the cloud's points, nearest boxes first, into w.list, which the caller has reset.
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
        list.push(sq_dist_to_points(index_.coords(leaf), p), index_.rows(leaf));
      list.finish();
      if (list.size() == a_.k) bound = list.sq_dist()[a_.k - 1];
    }
    list.reset(a_.k, bound);
    descend(range.top, range.top_group(), p, range, list);
    list.finish();
    return list.size() == a_.k ? std::sqrt(list.sq_dist()[a_.k - 1]) : kInfinity;
  }

  // The cloud's leaves within the distance of the box [low, high], with their boxes, into w; -1 if there are too many.
  int collect(const Point& low, const Point& high, T max_sq_dist, const CloudRange& range, Workspace<T>& w) const {
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

  // Queries begin .. end of a leaf; w.radius has the distance to the last neighbour of those already done.
  void search_group(int64_t query_leaf, int begin, int end, const CloudRange& range, Workspace<T>& w) const {
    const T* coords = queries_.coords(query_leaf);
    Point low, high, centre;
    T sq_half = 0;
    for (int d = 0; d < dim(); ++d) {
      const auto [least, most] = std::minmax_element(coords + d * kFanOut + begin, coords + d * kFanOut + end);
      low.x[d] = Lanes<T>::fill(*least);
      high.x[d] = Lanes<T>::fill(*most);
      centre.x[d] = Lanes<T>::fill(*least / 2 + *most / 2);
    }
    for (int i = begin; i < end; ++i) {
      T sum = 0;
      for (int d = 0; d < dim(); ++d) {
        const T difference = coords[d * kFanOut + i] - centre.x[d].v[0][0];
        sum += difference * difference;
      }
      sq_half = std::max(sq_half, sum);
    }
    T centre_radius = kInfinity;
    int leaves = -1;
    const bool bounded = a_.max_sq_dist < kInfinity;
    if (bounded) leaves = collect(low, high, limit(), range, w);
    if (!bounded || leaves < 0 || leaves * kFanOut > 16 * a_.k + 256) {
      centre_radius = radius_of_k(centre, self_ ? query_leaf : -1, range, w.list);
      leaves = collect(low, high, std::min(limit(), safe_square(centre_radius + std::sqrt(sq_half))), range, w);
    }
    if (leaves < 0 && end - begin > 1) {
      const int middle = (begin + end) / 2;
      search_group(query_leaf, begin, middle, range, w);
      search_group(query_leaf, middle, end, range, w);
      return;
    }
    if (leaves < 0) return search_alone(query_leaf, begin, range, w);
    search_among(query_leaf, begin, end, leaves, centre, centre_radius, w);
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
      T sq_centre = 0;
      for (int d = 0; d < dim(); ++d) {
        const T difference = p.x[d].v[0][0] - centre.x[d].v[0][0];
        sq_centre += difference * difference;
      }
      // k points lie within the safe bound; probably as many within the radius of the nearest query that is done.
      T reach = centre_radius + std::sqrt(sq_centre), guess = centre_radius;
      const Lanes<T> via = square_root(sq_dist_to_points(coords, p)) + radii;
      const T nearest = smallest(via);
      if (nearest < reach) {
        reach = nearest;
        guess = w.radius[__builtin_ctz(equal(via, Lanes<T>::fill(nearest)))];
      }
      const T safe = std::min(limit(), safe_square(reach));
      T bound = std::min(safe, guess * guess * T(1.21));
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
      const Mask mask = less_equal(sq_dist_to_boxes(w.bounds[0] + first, kMaxLeaves + kLaneCount, p, p), limit);
      compress(mask, Lanes<int32_t>::load(w.leaf + first), w.near_leaf + near);
      near += __builtin_popcount(mask);
    }
    int32_t limit_row = std::numeric_limits<int32_t>::max();
    int count = 0;
    for (int i = 0; i < near; ++i) {
      const Lanes<T> sq_dist = sq_dist_to_points(index_.coords(w.near_leaf[i]), p);
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
  const PointIndex<T>& index_;
  const PointIndex<T>& queries_;
  bool self_;
};

template <class T, int D>
void search(const NeighborSearch<T>& a, const Parallel& parallel) {
  const bool self = a.query == a.support && a.query_offsets == a.support_offsets && a.num_query == a.num_support;
  const PointIndex<T> index(a.support, a.support_offsets, a.num_clouds, a.dim, true, parallel);
  std::unique_ptr<PointIndex<T>> other;
  if (!self) other.reset(new PointIndex<T>(a.query, a.query_offsets, a.num_clouds, a.dim, false, parallel));
  const PointIndex<T>& queries = self ? index : *other;
  const Search<T, D> search(a, index, queries);

  std::vector<std::unique_ptr<Workspace<T>>> workspaces(parallel.threads());
  const int64_t groups = queries.num_leaves();
  parallel.tasks((groups + kGroupsPerTask - 1) / kGroupsPerTask, [&](int64_t task, int worker) {
    if (!workspaces[worker]) workspaces[worker].reset(new Workspace<T>());
    int64_t leaf = task * kGroupsPerTask;
    const int64_t end = std::min(groups, leaf + kGroupsPerTask);
    for (int64_t cloud = queries.cloud_of_leaf(leaf); leaf < end; ++leaf) {
      while (leaf >= queries.first_leaf(cloud + 1)) ++cloud;
      search.run(leaf, cloud, *workspaces[worker]);
    }
  });
  for (const int32_t row : queries.left_out()) search.write(row, 0, nullptr, nullptr);
}

}  // namespace

void neighbor_search(const NeighborSearch<float>& a, const Parallel& parallel) {
  if (a.dim == 2) return search<float, 2>(a, parallel);
  if (a.dim == 3) return search<float, 3>(a, parallel);
  search<float, 0>(a, parallel);
}
void neighbor_search(const NeighborSearch<double>& a, const Parallel& parallel) { search<double, 0>(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
