#include <cassert>
#include <limits>

#include "cuda_launch.h"
#include "permutohedral_lattice_cuda.h"
#include "sort_scan.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr auto kWhat = "permutohedral_lattice";
constexpr unsigned long long kNoRow = ~0ull;

// Of the positions, rounded outwards to whole numbers.
struct Extent {
  int32_t low[max_lattice_dims], high[max_lattice_dims];
  unsigned long long bad_row;
};

__global__ void clear_kernel(Extent* extent) {
  for (int d = 0; d < max_lattice_dims; ++d) {
    extent->low[d] = std::numeric_limits<int32_t>::max();
    extent->high[d] = std::numeric_limits<int32_t>::min();
  }
  extent->bad_row = kNoRow;
}

// One axis for each blockIdx.y.
template <class T>
__global__ void __launch_bounds__(kThreads) extent_kernel(PermutohedralLattice<T> a, Extent* extent) {
  const int d = static_cast<int>(blockIdx.y);
  int32_t low = std::numeric_limits<int32_t>::max(), high = std::numeric_limits<int32_t>::min();
  for (int64_t i = thread_in_grid(); i < a.num_points; i += threads_in_grid()) {
    const T x = a.positions[i * a.dims + d];
    if (x >= T(-max_lattice_position) && x <= T(max_lattice_position)) {
      const auto whole = static_cast<int32_t>(x);
      low = min(low, whole - 1);
      high = max(high, whole + 1);
    } else {
      atomicMin(&extent->bad_row, static_cast<unsigned long long>(i));
    }
  }
  low = warp_min(low);
  high = warp_max(high);
  if (lane_id() == 0) {
    atomicMin(&extent->low[d], low);
    atomicMax(&extent->high[d], high);
  }
}

template <class T>
T read(const T* from, void* stream) {
  T value;
  check(cudaMemcpyAsync(&value, from, sizeof(T), cudaMemcpyDeviceToHost, stream_of(stream)), kWhat);
  check(cudaStreamSynchronize(stream_of(stream)), kWhat);
  return value;
}

template <class T>
int64_t plan_on_gpu(const PermutohedralLattice<T>& a, LatticePlan& plan, void* workspace, void* stream) {
  Extent* const on_gpu = static_cast<Extent*>(workspace);
  launch(kWhat, clear_kernel, 1, 1, 0, stream, on_gpu);
  launch(kWhat, extent_kernel<T>, dim3(std::min(blocks_for(a.num_points, kThreads), 512u), static_cast<unsigned>(a.dims)),
         kThreads, 0, stream, a, on_gpu);
  const Extent extent = read(on_gpu, stream);
  if (extent.bad_row != kNoRow) return -1 - static_cast<int64_t>(extent.bad_row);
  double low[max_lattice_dims], high[max_lattice_dims];
  for (int d = 0; d < a.dims; ++d) {
    low[d] = extent.low[d];
    high[d] = extent.high[d];
  }
  plan = plan_lattice(a.dims, low, high, a.num_clouds);
  return 0;
}

// An open hash table of entries: a slot holds the first of all entries with its key, or -1.
struct Workspace {
  void* key;  // LatticeKey<W> (entries)
  int32_t *slots, *slot_of, *is_first, *rank;
  unsigned char* scan;
  size_t scan_bytes;
  int64_t entries, num_slots;
  int slot_shift;

  Workspace(Arena& arena, int64_t num_points, int dims, const LatticePlan& plan) {
    entries = num_points * (dims + 1);
    int bits = 4;
    while ((int64_t{1} << bits) < 2 * entries) ++bits;
    num_slots = int64_t{1} << bits;
    slot_shift = 64 - bits;
    key = arena.take<uint64_t>(entries * (plan.words == 1 ? 1 : wide_key_words));
    slots = arena.take<int32_t>(num_slots);
    slot_of = arena.take<int32_t>(entries);
    is_first = arena.take<int32_t>(entries);
    rank = arena.take<int32_t>(entries);
    scan_bytes = scan_workspace_bytes(entries);
    scan = arena.take<unsigned char>(static_cast<int64_t>(scan_bytes));
  }
};

template <class T, int D, int W>
__global__ void __launch_bounds__(kThreads)
    simplex_kernel(PermutohedralLattice<T> a, LatticePlan plan, LatticeKey<W>* keys) {
  for (int64_t i = thread_in_grid(); i < a.num_points; i += threads_in_grid()) {
    double x[D], cell[D + 1], rank[D + 1], weight[D + 1];
    for (int d = 0; d < D; ++d) x[d] = static_cast<double>(a.positions[i * D + d]);
    enclosing_simplex<D>(x, plan.scale, cell, rank, weight);
    const int64_t cloud = cloud_of(a.offsets, a.num_clouds, i);
    assert(cloud >= 0 && cloud < a.num_clouds);
    int64_t q[D];
    for (int d = 0; d < D; ++d) q[d] = static_cast<int64_t>(cell[d]);
    LatticeKey<W> key = first_vertex<W>(plan, D, q, cloud);
    for (int k = 0; k <= D; ++k) {
      if (k > 0)
        for (int d = 0; d <= D; ++d)
          if (static_cast<int>(rank[d]) == D + 1 - k) step_colour(plan, D, d, key);
      keys[i * (D + 1) + k] = key;
      a.weights[i * (D + 1) + k] = static_cast<T>(weight[k] * plan.weight_scale);
    }
  }
}

__global__ void __launch_bounds__(kThreads) fill_kernel(int32_t* to, int64_t count, int32_t value) {
  for (int64_t i = thread_in_grid(); i < count; i += threads_in_grid()) to[i] = value;
}

template <int W>
__global__ void __launch_bounds__(kThreads) insert_kernel(const LatticeKey<W>* keys, Workspace w) {
  for (int64_t e = thread_in_grid(); e < w.entries; e += threads_in_grid()) {
    const LatticeKey<W> key = keys[e];
    const auto entry = static_cast<int32_t>(e);
    int64_t s = static_cast<int64_t>(key.hash() >> w.slot_shift);
    while (true) {
      // Read before an atomic operation: where many entries share a key, most find it there.
      int32_t there = *static_cast<volatile int32_t*>(w.slots + s);
      if (there < 0) there = atomicCAS(w.slots + s, -1, entry);
      if (there < 0) break;
      if (keys[there] == key) {
        if (there > entry) atomicMin(w.slots + s, entry);
        break;
      }
      s = (s + 1) & (w.num_slots - 1);
    }
    w.slot_of[e] = static_cast<int32_t>(s);
  }
}

__global__ void __launch_bounds__(kThreads) first_kernel(Workspace w) {
  for (int64_t e = thread_in_grid(); e < w.entries; e += threads_in_grid())
    w.is_first[e] = w.slots[w.slot_of[e]] == static_cast<int32_t>(e);
}

__global__ void __launch_bounds__(kThreads) vertex_kernel(Workspace w, int32_t* vertices) {
  for (int64_t e = thread_in_grid(); e < w.entries; e += threads_in_grid())
    vertices[e] = w.rank[w.slots[w.slot_of[e]]] - 1;
}

// One lattice point for each entry that names it first, all directions.
template <int W>
__global__ void __launch_bounds__(kThreads)
    neighbor_kernel(const LatticeKey<W>* keys, Workspace w, LatticePlan plan, int dims, int64_t count,
                    int32_t* neighbors) {
  for (int64_t e = thread_in_grid(); e < w.entries; e += threads_in_grid()) {
    if (!w.is_first[e]) continue;
    const int64_t m = w.rank[e] - 1;
    for (int axis = 0; axis <= dims; ++axis) {
      const LatticeKey<W> key = next_along(plan, dims, axis, keys[e]);
      int64_t s = static_cast<int64_t>(key.hash() >> w.slot_shift);
      while (w.slots[s] >= 0 && !(keys[w.slots[s]] == key)) s = (s + 1) & (w.num_slots - 1);
      if (w.slots[s] < 0) continue;
      const int64_t next = w.rank[w.slots[s]] - 1;
      int32_t* const along = neighbors + axis * (count + 1) * 2;
      along[2 * m] = static_cast<int32_t>(next);
      along[2 * next + 1] = static_cast<int32_t>(m);
    }
  }
}

template <class T, int W>
auto simplex_kernel_of(int dims) {
  switch (dims) {
    case 2: return simplex_kernel<T, 2, W>;
    case 3: return simplex_kernel<T, 3, W>;
    case 4: return simplex_kernel<T, 4, W>;
    case 5: return simplex_kernel<T, 5, W>;
    case 6: return simplex_kernel<T, 6, W>;
    case 7: return simplex_kernel<T, 7, W>;
    default: return simplex_kernel<T, 8, W>;
  }
}

template <class T, int W>
int64_t build(const PermutohedralLattice<T>& a, const LatticePlan& plan, void* workspace, void* stream) {
  Arena arena(workspace);
  const Workspace w(arena, a.num_points, a.dims, plan);
  auto* const keys = static_cast<LatticeKey<W>*>(w.key);
  const unsigned blocks = blocks_for(w.entries, kThreads);
  launch(kWhat, simplex_kernel_of<T, W>(a.dims), blocks_for(a.num_points, kThreads), kThreads, 0, stream, a, plan, keys);
  launch(kWhat, fill_kernel, blocks_for(w.num_slots, kThreads), kThreads, 0, stream, w.slots, w.num_slots, -1);
  launch(kWhat, insert_kernel<W>, blocks, kThreads, 0, stream, keys, w);
  launch(kWhat, first_kernel, blocks, kThreads, 0, stream, w);
  inclusive_scan(w.is_first, w.rank, w.entries, w.scan, w.scan_bytes, stream);
  launch(kWhat, vertex_kernel, blocks, kThreads, 0, stream, w, a.vertices);
  const int64_t count = read(w.rank + w.entries - 1, stream), cells = (a.dims + 1) * (count + 1) * 2;
  int32_t* const neighbors = a.allocate(a.context, count);
  launch(kWhat, fill_kernel, blocks_for(cells, kThreads), kThreads, 0, stream, neighbors, cells,
         static_cast<int32_t>(count));
  launch(kWhat, neighbor_kernel<W>, blocks, kThreads, 0, stream, keys, w, plan, a.dims, count, neighbors);
  return count;
}

template <class T>
int64_t build(const PermutohedralLattice<T>& a, const LatticePlan& plan, void* workspace, void* stream) {
  return plan.words == 1 ? build<T, 1>(a, plan, workspace, stream)
                         : build<T, wide_key_words>(a, plan, workspace, stream);
}

}  // namespace
}  // namespace cuda

size_t lattice_plan_workspace_bytes() { return sizeof(cuda::Extent); }
int64_t lattice_plan_cuda(const PermutohedralLattice<float>& a, LatticePlan& plan, void* workspace, void* stream) {
  return cuda::plan_on_gpu(a, plan, workspace, stream);
}
int64_t lattice_plan_cuda(const PermutohedralLattice<double>& a, LatticePlan& plan, void* workspace, void* stream) {
  return cuda::plan_on_gpu(a, plan, workspace, stream);
}

size_t permutohedral_lattice_workspace_bytes(int64_t num_points, int dims, const LatticePlan& plan) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace counted(arena, num_points, dims, plan);
  return arena.used();
}
int64_t permutohedral_lattice_cuda(const PermutohedralLattice<float>& a, const LatticePlan& plan, void* workspace,
                                   void* stream) {
  return cuda::build(a, plan, workspace, stream);
}
int64_t permutohedral_lattice_cuda(const PermutohedralLattice<double>& a, const LatticePlan& plan, void* workspace,
                                   void* stream) {
  return cuda::build(a, plan, workspace, stream);
}

}  // namespace pcseg
