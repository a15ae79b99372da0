#include <cassert>
#include <limits>

#include "cell.h"
#include "cuda_launch.h"
#include "grid_subsample_cuda.h"
#include "sort_scan.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned long long kNone = ~0ull;

struct CellBounds {
  int32_t low[max_grid_dims], high[max_grid_dims];
  unsigned long long bad_row;  // the first whose cell does not fit, or kNone
};

__global__ void clear_kernel(CellBounds* bounds) {
  for (int d = 0; d < max_grid_dims; ++d) {
    bounds->low[d] = std::numeric_limits<int32_t>::max();
    bounds->high[d] = std::numeric_limits<int32_t>::min();
  }
  bounds->bad_row = kNone;
}

// One axis for each blockIdx.y.
template <class T>
__global__ void __launch_bounds__(kThreads) bounds_kernel(GridVoxels<T> a, CellBounds* bounds) {
  const int d = static_cast<int>(blockIdx.y);
  int32_t low = std::numeric_limits<int32_t>::max(), high = std::numeric_limits<int32_t>::min();
  for (int64_t i = thread_in_grid(); i < a.num_points; i += threads_in_grid()) {
    const T quotient = a.coords[i * a.dims + d] / a.voxel_size;
    if (cell_fits(quotient)) {
      low = min(low, cell_of(quotient));
      high = max(high, cell_of(quotient));
    } else {
      atomicMin(&bounds->bad_row, static_cast<unsigned long long>(i));
    }
  }
  low = warp_min(low);
  high = warp_max(high);
  if (lane_id() == 0) {
    atomicMin(&bounds->low[d], low);
    atomicMax(&bounds->high[d], high);
  }
}

// Which axes, and whether the cloud, one sort goes by: consecutive fields of a key, the last axis lowest.
struct KeyFields {
  int first_axis, end_axis;
  bool cloud;
  int cloud_shift;
  int shift[max_grid_dims];
  int32_t low[max_grid_dims];
  int bits;
};

template <class T>
__device__ int64_t checked_cloud(const GridVoxels<T>& a, int64_t point) {
  const int64_t cloud = cloud_of(a.offsets, a.num_clouds, point);
  assert(cloud >= 0 && cloud < a.num_clouds);
  return cloud;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    key_kernel(GridVoxels<T> a, KeyFields fields, const int32_t* order, uint64_t* key) {
  for (int64_t i = thread_in_grid(); i < a.num_points; i += threads_in_grid()) {
    const int64_t point = order[i];
    uint64_t packed = fields.cloud ? static_cast<uint64_t>(checked_cloud(a, point)) << fields.cloud_shift : 0;
    for (int d = fields.first_axis; d < fields.end_axis; ++d) {
      const int64_t cell = cell_of(a.coords[point * a.dims + d] / a.voxel_size);
      packed |= static_cast<uint64_t>(cell - fields.low[d]) << fields.shift[d];
    }
    key[i] = packed;
  }
}

__global__ void __launch_bounds__(kThreads) count_up_kernel(int32_t* order, int64_t count) {
  for (int64_t i = thread_in_grid(); i < count; i += threads_in_grid()) order[i] = static_cast<int32_t>(i);
}

// begins[i] = 1 where point order[i] is the first of its voxel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    begin_kernel(GridVoxels<T> a, const int32_t* order, int32_t* begins) {
  for (int64_t i = thread_in_grid(); i < a.num_points; i += threads_in_grid()) {
    const int64_t point = order[i], before = i > 0 ? order[i - 1] : point;
    bool differs = i == 0 || checked_cloud(a, point) != checked_cloud(a, before);
    for (int d = 0; d < a.dims && !differs; ++d)
      differs = cell_of(a.coords[point * a.dims + d] / a.voxel_size) !=
                cell_of(a.coords[before * a.dims + d] / a.voxel_size);
    begins[i] = differs;
  }
}

__global__ void __launch_bounds__(kThreads)
    voxel_kernel(const int32_t* order, const int32_t* rank, int64_t num_points, int64_t* voxel_of_point) {
  for (int64_t i = thread_in_grid(); i < num_points; i += threads_in_grid()) voxel_of_point[order[i]] = rank[i] - 1;
}

__global__ void __launch_bounds__(kThreads) order_kernel(GridOrder a, const int32_t* order, const int32_t* rank) {
  for (int64_t i = thread_in_grid(); i < a.num_points; i += threads_in_grid()) {
    a.order[i] = order[i];
    if (i == 0 || rank[i] != rank[i - 1]) a.point_offsets[rank[i] - 1] = i;
  }
  // The first point of a cloud in sorted order stands where the cloud begins; an empty cloud begins like the next one.
  for (int64_t b = thread_in_grid(); b <= a.num_clouds; b += threads_in_grid())
    a.voxel_offsets[b] = a.offsets[b] < a.num_points ? rank[a.offsets[b]] - 1 : a.num_voxels;
  if (thread_in_grid() == 0) a.point_offsets[a.num_voxels] = a.num_points;
}

struct Workspace {
  CellBounds* bounds;
  uint64_t *key, *sorted_key;
  int32_t *order, *other_order, *begins, *rank;
  unsigned char *sort, *scan;
  size_t sort_bytes, scan_bytes;

  Workspace(Arena& arena, int64_t num_points) {
    bounds = arena.take<CellBounds>(1);
    key = arena.take<uint64_t>(num_points);
    sorted_key = arena.take<uint64_t>(num_points);
    order = arena.take<int32_t>(num_points);
    other_order = arena.take<int32_t>(num_points);
    begins = arena.take<int32_t>(num_points);
    rank = arena.take<int32_t>(num_points);
    sort_bytes = sort_workspace_bytes(num_points, 64);
    sort = arena.take<unsigned char>(static_cast<int64_t>(sort_bytes));
    scan_bytes = scan_workspace_bytes(num_points);
    scan = arena.take<unsigned char>(static_cast<int64_t>(scan_bytes));
  }
};

int bits_of(uint64_t values) {
  int bits = 0;
  while (bits < 64 && values > uint64_t{1} << bits) ++bits;
  return bits;
}

// Fields from the last axis to the cloud, in as few stable sorts as 64-bit keys allow (one for any sensible scan).
// Returns how many.
int plan_sorts(const CellBounds& bounds, int dims, int64_t num_clouds, KeyFields* sorts) {
  int count = 0;
  const auto begin_sort = [&](int end_axis) {
    sorts[count] = {};
    sorts[count].first_axis = sorts[count].end_axis = end_axis;
    std::copy_n(bounds.low, max_grid_dims, sorts[count].low);
    return &sorts[count++];
  };
  KeyFields* fields = begin_sort(dims);
  for (int d = dims - 1; d >= 0; --d) {
    const int bits = bits_of(static_cast<uint64_t>(int64_t{bounds.high[d]} - bounds.low[d]) + 1);
    if (fields->bits + bits > 64) fields = begin_sort(d + 1);
    fields->first_axis = d;
    fields->shift[d] = std::min(fields->bits, 63);  // a field of no bits at the top would shift by 64
    fields->bits += bits;
  }
  const int bits = bits_of(static_cast<uint64_t>(num_clouds));
  if (fields->bits + bits > 64) fields = begin_sort(0);
  fields->cloud = true;
  fields->cloud_shift = std::min(fields->bits, 63);
  fields->bits += bits;
  return count;
}

template <class T>
T read(const T* from, const char* what, void* stream) {
  T value;
  check(cudaMemcpyAsync(&value, from, sizeof(T), cudaMemcpyDeviceToHost, stream_of(stream)), what);
  check(cudaStreamSynchronize(stream_of(stream)), what);
  return value;
}

template <class T>
int64_t run(const GridVoxels<T>& a, void* workspace, void* stream) {
  constexpr auto what = "grid_subsample";
  if (a.num_points == 0) return 0;
  Arena arena(workspace);
  const Workspace w(arena, a.num_points);
  const unsigned blocks = blocks_for(a.num_points, kThreads);
  launch(what, clear_kernel, 1, 1, 0, stream, w.bounds);
  launch(what, bounds_kernel<T>, dim3(std::min(blocks, 512u), static_cast<unsigned>(a.dims)), kThreads, 0, stream, a,
         w.bounds);
  const CellBounds bounds = read(w.bounds, what, stream);
  if (bounds.bad_row != kNone) return -1 - static_cast<int64_t>(bounds.bad_row);

  KeyFields sorts[max_grid_dims + 1];
  const int count = plan_sorts(bounds, a.dims, a.num_clouds, sorts);
  // The last sort writes `order`, the ones before it take turns.
  int32_t *from = count % 2 == 1 ? w.other_order : w.order, *to = count % 2 == 1 ? w.order : w.other_order;
  launch(what, count_up_kernel, blocks, kThreads, 0, stream, from, a.num_points);
  for (int i = 0; i < count; ++i) {
    launch(what, key_kernel<T>, blocks, kThreads, 0, stream, a, sorts[i], from, w.key);
    sort_pairs(w.key, w.sorted_key, from, to, a.num_points, std::max(sorts[i].bits, 1), w.sort, w.sort_bytes, stream);
    std::swap(from, to);
  }
  launch(what, begin_kernel<T>, blocks, kThreads, 0, stream, a, w.order, w.begins);
  inclusive_scan(w.begins, w.rank, a.num_points, w.scan, w.scan_bytes, stream);
  launch(what, voxel_kernel, blocks, kThreads, 0, stream, w.order, w.rank, a.num_points, a.voxel_of_point);
  return read(w.rank + a.num_points - 1, what, stream);
}

}  // namespace
}  // namespace cuda

template <class T>
size_t grid_subsample_workspace_bytes(const GridVoxels<T>& a) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace counted(arena, a.num_points);
  return arena.used();
}
template size_t grid_subsample_workspace_bytes(const GridVoxels<float>& a);
template size_t grid_subsample_workspace_bytes(const GridVoxels<double>& a);

int64_t grid_voxels_cuda(const GridVoxels<float>& a, void* workspace, void* stream) {
  return cuda::run(a, workspace, stream);
}
int64_t grid_voxels_cuda(const GridVoxels<double>& a, void* workspace, void* stream) {
  return cuda::run(a, workspace, stream);
}

void grid_order_cuda(const GridOrder& a, void* workspace, void* stream) {
  using namespace cuda;
  Arena arena(workspace);
  const Workspace w(arena, a.num_points);
  launch("grid_subsample", order_kernel, blocks_for(std::max(a.num_points, a.num_clouds + 1), kThreads), kThreads, 0,
         stream, a, w.order, w.rank);
}

}  // namespace pcseg
