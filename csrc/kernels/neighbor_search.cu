#include <cassert>
#include <limits>

#include "cuda_launch.h"
#include "neighbor_search_cuda.h"
#include "point_tree.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int32_t kNobody = std::numeric_limits<int32_t>::max();

template <class T>
__device__ Candidate<T> from_lane(const Candidate<T>& candidate, int lane) {
  return {__shfl_sync(kAllLanes, candidate.sq_dist, lane), __shfl_sync(kAllLanes, candidate.row, lane)};
}

// The best 32 * R candidates so far, in ascending order: lane l holds places l * R .. l * R + R - 1.
template <class T, int R>
struct NearestList {
  Candidate<T> place[R];

  // Filled with `limit`: only what is better can enter.
  __device__ explicit NearestList(const Candidate<T>& limit) {
    for (int r = 0; r < R; ++r) place[r] = limit;
  }

  // The same `added` in every lane.
  __device__ void insert(const Candidate<T>& added) {
    Candidate<T> before{__shfl_up_sync(kAllLanes, place[R - 1].sq_dist, 1),
                        __shfl_up_sync(kAllLanes, place[R - 1].row, 1)};
    const bool first_lane = lane_id() == 0;
#pragma unroll
    for (int r = R - 1; r >= 0; --r) {
      if (!(added < place[r])) continue;
      const bool first = r == 0 && first_lane;
      const Candidate<T>& left = r == 0 ? before : place[r > 0 ? r - 1 : 0];
      place[r] = first || !(added < left) ? added : left;
    }
  }

  __device__ Candidate<T> at(int index) const {
    Candidate<T> chosen = place[0];
#pragma unroll
    for (int r = 1; r < R; ++r)
      if (index % R == r) chosen = place[r];
    return from_lane(chosen, index / R);
  }
};

// One warp's search for one query; every lane holds the same values unless said otherwise.
template <class T, int Axes, int R>
class Search {
 public:
  __device__ Search(const PointTree<T, Axes>& tree, const T (&point)[Axes], int64_t begin, int64_t end)
      : tree_(tree), point_(point), begin_(begin), end_(end) {}

  // The best `width` candidates that come after `floor` and before `limit`. The leaf `start` is scanned first.
  __device__ NearestList<T, R> nearest(int width, int start, const Candidate<T>& floor, const Candidate<T>& limit) {
    NearestList<T, R> list(limit);
    if (begin_ >= end_) return list;
    Candidate<T> worst = limit;
    scan(start, width, floor, list, worst);

    T sq_dist[kMaxLevels];  // per lane: from the query to the box of the level's open group
    unsigned pending[kMaxLevels];
    int group[kMaxLevels];
    int level = tree_.levels.num_levels - 1;
    group[level] = 0;
    pending[level] = open(level, 0, sq_dist[level]);
    while (true) {
      const int node = group[level] * kFanOut + lane_id();
      const Candidate<T> best_inside{sq_dist[level], lowest_row(level, node)};
      const bool reachable = (pending[level] >> lane_id() & 1) && best_inside < worst;
      const unsigned reach = __ballot_sync(kAllLanes, reachable);
      if (reach == 0) {
        if (++level == tree_.levels.num_levels) return list;
        continue;
      }
      const T best = warp_min(reachable ? sq_dist[level] : std::numeric_limits<T>::infinity());
      const int chosen = __ffs(__ballot_sync(kAllLanes, reachable && sq_dist[level] == best)) - 1;
      pending[level] = reach & ~(1u << chosen);
      const int child = group[level] * kFanOut + chosen;
      if (level == 0) {
        if (child != start) scan(child, width, floor, list, worst);
      } else {
        --level;
        group[level] = child;
        pending[level] = open(level, child, sq_dist[level]);
      }
    }
  }

 private:
  __device__ int32_t lowest_row(int level, int node) const {
    return node < tree_.levels.count[level] ? tree_.lowest_row[tree_.levels.first[level] + node] : kNobody;
  }

  // Per lane, the squared distance to the lane's node of a group; returns which nodes hold points of the cloud.
  __device__ unsigned open(int level, int group, T& sq_dist) const {
    const int node = group * kFanOut + lane_id(), log_points = kLogFanOut * (level + 1);
    const int64_t first_point = int64_t{node} << log_points;
    const bool in_cloud = node < tree_.levels.count[level] && first_point < end_ &&
                          first_point + (int64_t{1} << log_points) > begin_;
    sq_dist = 0;
    if (in_cloud) {
      const int at = tree_.levels.first[level] + node;
      T difference[Axes];
#pragma unroll
      for (int d = 0; d < Axes; ++d) difference[d] = outside(point_[d], tree_.low[d][at], tree_.high[d][at]);
      sq_dist = squared_norm(difference);
    }
    return __ballot_sync(kAllLanes, in_cloud);
  }

  // Enters the leaf's points that come after `floor` and before the list's worst.
  __device__ void scan(int leaf, int width, const Candidate<T>& floor, NearestList<T, R>& list,
                       Candidate<T>& worst) const {
    const int64_t at = int64_t{leaf} * kFanOut + lane_id();
    Candidate<T> mine{0, kNobody};
    bool better = at >= begin_ && at < end_;
    if (better) {
      T difference[Axes];
#pragma unroll
      for (int d = 0; d < Axes; ++d) difference[d] = tree_.coords[d][at] - point_[d];
      mine = {squared_norm(difference), tree_.row[at]};
      better = mine < worst && floor < mine;
    }
    unsigned waiting = __ballot_sync(kAllLanes, better);
    while (waiting != 0) {
      const int lane = __ffs(waiting) - 1;
      list.insert(from_lane(mine, lane));
      worst = list.at(width - 1);
      better = better && mine < worst && lane_id() != lane;
      waiting = __ballot_sync(kAllLanes, better);
    }
  }

  const PointTree<T, Axes>& tree_;
  const T (&point_)[Axes];
  const int64_t begin_, end_;  // places of the cloud's points in curve order
};

// The leaf whose run along the curve holds `key`, found 32 leaves or nodes at a time.
template <class T, int Axes>
__device__ int leaf_of(const PointTree<T, Axes>& tree, uint64_t key) {
  int node = 0;
  for (int level = tree.levels.num_levels - 1; level >= 0; --level) {
    const int child = node * kFanOut + lane_id();
    const bool before = child < tree.levels.count[level] &&
                        tree.key[int64_t{child} << (kLogFanOut * (level + 1))] <= key;
    const int count = __popc(__ballot_sync(kAllLanes, before));
    node = node * kFanOut + (count > 0 ? count - 1 : 0);
  }
  return node;
}

// R: list places a lane holds. Self: the queries are the points of the tree, taken in curve order, so that the warps of
// a block walk through the same leaves.
template <class T, int Axes, int R, bool Self>
__global__ void __launch_bounds__(kThreads) search_kernel(NeighborSearch<T> a, PointTree<T, Axes> tree) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  for (int64_t task = thread_in_grid() / kWarp; task < a.num_query; task += threads_in_grid() / kWarp) {
    const int64_t query = Self ? tree.row[task] : task;
    const int64_t cloud = cloud_of(a.query_offsets, a.num_clouds, query);
    assert(cloud >= 0 && cloud < a.num_clouds);
    int64_t begin = a.support_offsets[cloud], end = a.support_offsets[cloud + 1];
    assert(0 <= begin && begin <= end && end <= tree.num_points);
    T point[Axes];
#pragma unroll
    for (int d = 0; d < Axes; ++d) {
      point[d] = d < a.dim ? a.query[query * a.dim + d] : T(0);
      if (!(point[d] - point[d] == 0)) end = begin;  // not finite: no neighbours
    }
    int start = 0;
    if (begin < end)
      start = Self ? static_cast<int>(task / kFanOut) : leaf_of(tree, curve_key(point, cloud, *tree.frame));

    // Squared distances end below infinity: row -1 comes before every row at that distance.
    const Candidate<T> limit{a.max_sq_dist, a.max_sq_dist < kInfinity ? kNobody : -1};
    Candidate<T> floor{-1, -1};
    Search<T, Axes, R> search(tree, point, begin, end);
    for (int64_t done = 0; done < a.k; done += kWarp * R) {
      const int width = static_cast<int>(min(a.k - done, int64_t{kWarp * R}));
      const NearestList<T, R> list = search.nearest(width, start, floor, limit);
      floor = list.at(width - 1);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int place = lane_id() * R + r;
        if (place >= width) continue;
        const bool empty = list.place[r].row == limit.row;
        const int64_t at = query * a.k + done + place;
        a.index[at] = empty ? a.num_support : list.place[r].row;
        if (a.sq_dist) a.sq_dist[at] = empty ? kInfinity : list.place[r].sq_dist;
      }
    }
  }
}

template <class T, int Axes>
void run(const NeighborSearch<T>& a, void* workspace, void* stream) {
  PointTree<T, Axes> tree;
  if (a.support_index) {
    tree = point_tree_at<T, Axes>(a.support_index, a.num_support);
  } else {
    Arena arena(workspace);
    void* memory = arena.take<unsigned char>(static_cast<int64_t>(point_tree_bytes<T, Axes>(a.num_support)));
    tree = build_point_tree<T, Axes>(a.support, a.support_offsets, a.num_support, a.num_clouds, static_cast<int>(a.dim),
                                     memory, arena.take<unsigned char>(0), stream);
  }
  auto kernel = search_kernel<T, Axes, 2, false>;
  if constexpr (Axes == 3) {  // more dimensions are rare and get one kernel for everything
    const bool self = a.query == a.support && a.num_query == a.num_support;
    if (a.k <= kWarp)
      kernel = self ? search_kernel<T, Axes, 1, true> : search_kernel<T, Axes, 1, false>;
    else if (self)
      kernel = search_kernel<T, Axes, 2, true>;
  }
  launch("neighbor_search", kernel, blocks_for(a.num_query * kWarp, kThreads), kThreads, 0, stream, a, tree);
}

template <class T>
void run(const NeighborSearch<T>& a, void* workspace, void* stream) {
  if (a.num_query == 0 || a.k == 0) return;
  return a.dim <= 3 ? run<T, 3>(a, workspace, stream) : run<T, kMaxDim>(a, workspace, stream);
}

}  // namespace
}  // namespace cuda

template <class T>
size_t search_tree_bytes(int64_t num_points, int64_t dim) {
  return dim <= 3 ? cuda::point_tree_bytes<T, 3>(num_points) : cuda::point_tree_bytes<T, cuda::kMaxDim>(num_points);
}
template <class T>
size_t search_tree_workspace_bytes(int64_t num_points, int64_t num_clouds, int64_t dim) {
  const int axes = static_cast<int>(dim);
  return dim <= 3 ? cuda::point_tree_workspace_bytes<T, 3>(num_points, num_clouds, axes)
                  : cuda::point_tree_workspace_bytes<T, cuda::kMaxDim>(num_points, num_clouds, axes);
}
template <class T>
void build_search_tree_cuda(const T* coords, const int64_t* offsets, int64_t num_points, int64_t num_clouds, int64_t dim,
                            void* memory, void* workspace, void* stream) {
  const int axes = static_cast<int>(dim);
  if (dim <= 3)
    cuda::build_point_tree<T, 3>(coords, offsets, num_points, num_clouds, axes, memory, workspace, stream);
  else
    cuda::build_point_tree<T, cuda::kMaxDim>(coords, offsets, num_points, num_clouds, axes, memory, workspace, stream);
}
template <class T>
size_t neighbor_search_workspace_bytes(const NeighborSearch<T>& a) {
  if (a.support_index) return 0;
  cuda::Arena arena(nullptr);
  arena.take<unsigned char>(static_cast<int64_t>(search_tree_bytes<T>(a.num_support, a.dim)));
  return arena.used() + search_tree_workspace_bytes<T>(a.num_support, a.num_clouds, a.dim);
}

#define PCSEG_SEARCH_TREE(T)                                                                                          \
  template size_t search_tree_bytes<T>(int64_t, int64_t);                                                             \
  template size_t search_tree_workspace_bytes<T>(int64_t, int64_t, int64_t);                                          \
  template void build_search_tree_cuda(const T*, const int64_t*, int64_t, int64_t, int64_t, void*, void*, void*);     \
  template size_t neighbor_search_workspace_bytes(const NeighborSearch<T>& a);
PCSEG_SEARCH_TREE(float)
PCSEG_SEARCH_TREE(double)

void neighbor_search_cuda(const NeighborSearch<float>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}
void neighbor_search_cuda(const NeighborSearch<double>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}

}  // namespace pcseg
