#include "point_tree.h"

#include <cassert>
#include <limits>

#include "cuda_launch.h"
#include "sort_scan.h"

namespace pcseg::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBoundsBlocks = 128;

template <class T, int Axes>
struct Box {
  T low[Axes], high[Axes];
};

template <class T, int Axes>
__device__ void extend(Box<T, Axes>& box, int d, T low, T high) {
  if (low < box.low[d]) box.low[d] = low;  // false for NaN
  if (high > box.high[d]) box.high[d] = high;
}

template <class T, int Axes>
__device__ Box<T, Axes> empty_box() {
  Box<T, Axes> box;
  for (int d = 0; d < Axes; ++d) {
    box.low[d] = std::numeric_limits<T>::infinity();
    box.high[d] = -std::numeric_limits<T>::infinity();
  }
  return box;
}

// The same box in thread 0 of the block as if its threads' boxes were joined. All threads of the block take part.
template <class T, int Axes>
__device__ Box<T, Axes> join_block(Box<T, Axes> box) {
  __shared__ Box<T, Axes> shared[kThreads / kWarp];
  for (int d = 0; d < Axes; ++d) {
    box.low[d] = warp_min(box.low[d]);
    box.high[d] = warp_max(box.high[d]);
  }
  if (lane_id() == 0) shared[threadIdx.x / kWarp] = box;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kThreads / kWarp; ++warp)
      for (int d = 0; d < Axes; ++d) extend(box, d, shared[warp].low[d], shared[warp].high[d]);
  return box;
}

// parts[block] = box of the finite coordinates among the block's share.
template <class T, int Axes>
__global__ void __launch_bounds__(kThreads)
    bounds_kernel(const T* coords, int64_t num_points, int dim, Box<T, Axes>* parts) {
  Box<T, Axes> box = empty_box<T, Axes>();
  for (int64_t i = thread_in_grid(); i < num_points; i += threads_in_grid())
    for (int d = 0; d < dim; ++d) {
      const T coord = coords[i * dim + d];
      if (coord - coord == 0) extend(box, d, coord, coord);
    }
  box = join_block(box);
  if (threadIdx.x == 0) parts[blockIdx.x] = box;
}

// One block: joins the parts and decides the grid.
template <class T, int Axes>
__global__ void __launch_bounds__(kThreads)
    frame_kernel(const Box<T, Axes>* parts, int num_parts, int64_t num_clouds, int dim, CurveFrame<T>* frame) {
  Box<T, Axes> box = empty_box<T, Axes>();
  for (int part = threadIdx.x; part < num_parts; part += kThreads)
    for (int d = 0; d < dim; ++d) extend(box, d, parts[part].low[d], parts[part].high[d]);
  box = join_block(box);
  if (threadIdx.x != 0) return;
  T extent = 0;
  for (int d = 0; d < dim; ++d) {
    const T edge = box.high[d] - box.low[d];
    if (edge > extent) extent = edge;
    frame->low[d] = box.low[d] <= box.high[d] ? box.low[d] : T(0);
  }
  frame->dim = dim;
  frame->bits = curve_bits(num_clouds, dim);
  const T scale = static_cast<T>(uint32_t{1} << frame->bits) / extent;
  frame->scale = scale - scale == 0 ? scale : T(0);  // one place, or an extent beyond the largest number
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    key_kernel(const T* coords, const int64_t* offsets, int64_t num_points, int64_t num_clouds,
               const CurveFrame<T>* frame_of_device, uint64_t* key, int32_t* row) {
  const CurveFrame<T> frame = *frame_of_device;
  for (int64_t i = thread_in_grid(); i < num_points; i += threads_in_grid()) {
    const int64_t cloud = cloud_of(offsets, num_clouds, i);
    assert(cloud >= 0 && cloud < num_clouds);
    key[i] = curve_key(coords + i * frame.dim, cloud, frame);
    row[i] = static_cast<int32_t>(i);
  }
}

// The arrays of a PointTree while they are written.
template <class T, int Axes>
struct TreeArrays {
  T* coords[Axes];
  int32_t* row;
  T* low[Axes];
  T* high[Axes];
  int32_t* lowest_row;
  uint64_t* key;
  CurveFrame<T>* frame;

  TreeArrays(Arena& arena, int64_t num_points, const TreeLevels& levels) {
    const int64_t padded = int64_t{levels.count[0]} * kFanOut;
    for (int d = 0; d < Axes; ++d) {
      coords[d] = arena.take<T>(padded);
      low[d] = arena.take<T>(levels.num_nodes);
      high[d] = arena.take<T>(levels.num_nodes);
    }
    row = arena.take<int32_t>(padded);
    lowest_row = arena.take<int32_t>(levels.num_nodes);
    key = arena.take<uint64_t>(num_points);
    frame = arena.take<CurveFrame<T>>(1);
  }
};

// One warp a node, one lane a child: joins the lanes' boxes and rows and writes them as node `node`.
template <class T, int Axes>
__device__ void write_node(const TreeArrays<T, Axes>& tree, int64_t node, Box<T, Axes> box, int32_t row) {
  for (int d = 0; d < Axes; ++d) {
    box.low[d] = warp_min(box.low[d]);
    box.high[d] = warp_max(box.high[d]);
  }
  row = warp_min(row);
  if (lane_id() != 0) return;
  for (int d = 0; d < Axes; ++d) {
    tree.low[d][node] = box.low[d];
    tree.high[d][node] = box.high[d];
  }
  tree.lowest_row[node] = row;
}

// Brings the points into curve order (tree.row holds it) and boxes every leaf.
template <class T, int Axes>
__global__ void __launch_bounds__(kThreads)
    leaf_kernel(const T* coords, int64_t num_points, int dim, const int32_t* order, TreeArrays<T, Axes> tree,
                int64_t num_leaves) {
  for (int64_t leaf = thread_in_grid() / kWarp; leaf < num_leaves; leaf += threads_in_grid() / kWarp) {
    const int64_t at = leaf * kFanOut + lane_id();
    const bool exists = at < num_points;
    const int32_t row = exists ? order[at] : std::numeric_limits<int32_t>::max();
    Box<T, Axes> box = empty_box<T, Axes>();
    for (int d = 0; d < Axes; ++d) {
      const T coord = exists && d < dim ? coords[int64_t{row} * dim + d] : T(0);
      tree.coords[d][at] = coord;
      if (exists) extend(box, d, coord, coord);
    }
    tree.row[at] = row;
    write_node(tree, leaf, box, row);
  }
}

// Boxes the nodes first .. first + count - 1 over their children, which begin at `child`.
template <class T, int Axes>
__global__ void __launch_bounds__(kThreads)
    node_kernel(TreeArrays<T, Axes> tree, int first, int count, int child, int num_children) {
  for (int64_t node = thread_in_grid() / kWarp; node < count; node += threads_in_grid() / kWarp) {
    const int64_t below = node * kFanOut + lane_id();
    Box<T, Axes> box = empty_box<T, Axes>();
    int32_t row = std::numeric_limits<int32_t>::max();
    if (below < num_children) {
      for (int d = 0; d < Axes; ++d) extend(box, d, tree.low[d][child + below], tree.high[d][child + below]);
      row = tree.lowest_row[child + below];
    }
    write_node(tree, first + node, box, row);
  }
}

template <class T, int Axes>
struct Workspace {
  Box<T, Axes>* parts;
  uint64_t* key;
  int32_t *row, *order;
  unsigned char* sort;
  size_t sort_bytes;

  Workspace(Arena& arena, int64_t num_points, int bits) {
    parts = arena.take<Box<T, Axes>>(kBoundsBlocks);
    key = arena.take<uint64_t>(num_points);
    row = arena.take<int32_t>(num_points);
    order = arena.take<int32_t>(num_points);
    sort_bytes = sort_workspace_bytes(num_points, bits);
    sort = arena.take<unsigned char>(static_cast<int64_t>(sort_bytes));
  }
};

int key_bits(int64_t num_clouds, int dim) {
  return std::max(1, curve_bits(num_clouds, dim) * dim + bits_for(static_cast<uint64_t>(num_clouds)));
}

}  // namespace

template <class T, int Axes>
size_t point_tree_bytes(int64_t num_points) {
  Arena arena(nullptr);
  const TreeArrays<T, Axes> counted(arena, num_points, tree_levels(num_points));
  return arena.used();
}

template <class T, int Axes>
size_t point_tree_workspace_bytes(int64_t num_points, int64_t num_clouds, int dim) {
  Arena arena(nullptr);
  const Workspace<T, Axes> counted(arena, num_points, key_bits(num_clouds, dim));
  return arena.used();
}

template <class T, int Axes>
PointTree<T, Axes> point_tree_at(const void* memory, int64_t num_points) {
  Arena arena(const_cast<void*>(memory));
  PointTree<T, Axes> tree{};
  tree.levels = tree_levels(num_points);
  const TreeArrays<T, Axes> arrays(arena, num_points, tree.levels);
  for (int d = 0; d < Axes; ++d) {
    tree.coords[d] = arrays.coords[d];
    tree.low[d] = arrays.low[d];
    tree.high[d] = arrays.high[d];
  }
  tree.row = arrays.row;
  tree.key = arrays.key;
  tree.lowest_row = arrays.lowest_row;
  tree.frame = arrays.frame;
  tree.num_points = static_cast<int>(num_points);
  return tree;
}

template <class T, int Axes>
PointTree<T, Axes> build_point_tree(const T* coords, const int64_t* offsets, int64_t num_points, int64_t num_clouds,
                                    int dim, void* memory, void* workspace, void* stream) {
  constexpr auto what = "point_tree";
  const TreeLevels levels = tree_levels(num_points);
  const int bits = key_bits(num_clouds, dim);
  Arena kept(memory), scratch(workspace);
  const TreeArrays<T, Axes> tree(kept, num_points, levels);
  const Workspace<T, Axes> w(scratch, num_points, bits);
  if (num_points > 0) {
    const unsigned blocks = blocks_for(num_points, kThreads), parts = std::min<unsigned>(blocks, kBoundsBlocks);
    launch(what, bounds_kernel<T, Axes>, parts, kThreads, 0, stream, coords, num_points, dim, w.parts);
    launch(what, frame_kernel<T, Axes>, 1, kThreads, 0, stream, w.parts, static_cast<int>(parts), num_clouds, dim,
           tree.frame);
    launch(what, key_kernel<T>, blocks, kThreads, 0, stream, coords, offsets, num_points, num_clouds, tree.frame, w.key,
           w.row);
    sort_pairs(w.key, tree.key, w.row, w.order, num_points, bits, w.sort, w.sort_bytes, stream);
    const auto warps = [](int64_t count) { return blocks_for(count * kWarp, kThreads); };
    launch(what, leaf_kernel<T, Axes>, warps(levels.count[0]), kThreads, 0, stream, coords, num_points, dim, w.order,
           tree, int64_t{levels.count[0]});
    for (int level = 1; level < levels.num_levels; ++level)
      launch(what, node_kernel<T, Axes>, warps(levels.count[level]), kThreads, 0, stream, tree, levels.first[level],
             levels.count[level], levels.first[level - 1], levels.count[level - 1]);
  }
  return point_tree_at<T, Axes>(memory, num_points);
}

#define PCSEG_POINT_TREE(T, Axes)                                                  \
  template size_t point_tree_bytes<T, Axes>(int64_t);                            \
  template size_t point_tree_workspace_bytes<T, Axes>(int64_t, int64_t, int);     \
  template PointTree<T, Axes> point_tree_at<T, Axes>(const void*, int64_t);       \
  template PointTree<T, Axes> build_point_tree<T, Axes>(const T*, const int64_t*, int64_t, int64_t, int, void*, void*, \
                                                        void*);
PCSEG_POINT_TREE(float, 3)
PCSEG_POINT_TREE(double, 3)
PCSEG_POINT_TREE(float, kMaxDim)
PCSEG_POINT_TREE(double, kMaxDim)

}  // namespace pcseg::cuda
