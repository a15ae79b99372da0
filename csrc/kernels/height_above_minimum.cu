#include <cassert>
#include <limits>

#include "cell.h"
#include "cuda_launch.h"
#include "height_above_minimum_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// A cell that holds points; cells come in order of (cloud, x, y).
template <class T>
struct Cell {
  int64_t x, y;  // wider than the cells themselves, so that x - 1 exists
  T lowest;
};

// One warp a cell.
template <class T>
__global__ void __launch_bounds__(kThreads) cell_kernel(HeightAboveMinimum<T> a, Cell<T>* cells) {
  for (int64_t v = thread_in_grid() / kWarp; v < a.num_cells; v += threads_in_grid() / kWarp) {
    const int64_t first = a.point_offsets[v], last = a.point_offsets[v + 1];
    assert(0 <= first && first < last && last <= a.num_points);
    T lowest = std::numeric_limits<T>::infinity();
    for (int64_t i = first + lane_id(); i < last; i += kWarp) {
      const int64_t row = a.order[i];
      assert(0 <= row && row < a.num_points);
      const T z = a.coords[row * 3 + 2];
      lowest = z < lowest ? z : lowest;
    }
    lowest = warp_min(lowest);
    if (lane_id() != 0) continue;
    const T* at = a.coords + a.order[first] * 3;
    cells[v] = {cell_of(at[0] / a.cell_size), cell_of(at[1] / a.cell_size), lowest};
  }
}

// One thread a cell: the least over the cells around it, three of which are consecutive in each column.
template <class T>
__global__ void __launch_bounds__(kThreads)
    spread_kernel(HeightAboveMinimum<T> a, const Cell<T>* cells, T* lowest) {
  for (int64_t v = thread_in_grid(); v < a.num_cells; v += threads_in_grid()) {
    const int64_t cloud = cloud_of(a.cloud_offsets, a.num_clouds, v);
    assert(cloud >= 0 && cloud < a.num_clouds);
    const int64_t begin = a.cloud_offsets[cloud], end = a.cloud_offsets[cloud + 1];
    assert(0 <= begin && end <= a.num_cells);
    T least = cells[v].lowest;
    for (int64_t x = cells[v].x - 1; x <= cells[v].x + 1; ++x) {
      const int64_t y = cells[v].y - 1;
      int64_t low = begin, high = end;  // the first cell that is not before (x, y)
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (cells[middle].x < x || (cells[middle].x == x && cells[middle].y < y))
          low = middle + 1;
        else
          high = middle;
      }
      for (int64_t u = low; u < end && cells[u].x == x && cells[u].y <= y + 2; ++u)
        least = cells[u].lowest < least ? cells[u].lowest : least;
    }
    lowest[v] = least;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) height_kernel(HeightAboveMinimum<T> a, const T* lowest) {
  for (int64_t i = thread_in_grid(); i < a.num_points; i += threads_in_grid()) {
    const int64_t cell = a.cell_of_point[i];
    assert(0 <= cell && cell < a.num_cells);
    a.height[i] = a.coords[i * 3 + 2] - lowest[cell];
  }
}

template <class T>
struct Workspace {
  Cell<T>* cells;
  T* lowest;

  Workspace(Arena& arena, int64_t num_cells) {
    cells = arena.take<Cell<T>>(num_cells);
    lowest = arena.take<T>(num_cells);
  }
};

template <class T>
void run(const HeightAboveMinimum<T>& a, void* workspace, void* stream) {
  constexpr auto what = "height_above_minimum";
  if (a.num_points == 0) return;
  Arena arena(workspace);
  const Workspace<T> w(arena, a.num_cells);
  if (a.num_cells > 0) {
    launch(what, cell_kernel<T>, blocks_for(a.num_cells * kWarp, kThreads), kThreads, 0, stream, a, w.cells);
    launch(what, spread_kernel<T>, blocks_for(a.num_cells, kThreads), kThreads, 0, stream, a, w.cells, w.lowest);
  }
  launch(what, height_kernel<T>, blocks_for(a.num_points, kThreads), kThreads, 0, stream, a, w.lowest);
}

}  // namespace
}  // namespace cuda

template <class T>
size_t height_above_minimum_workspace_bytes(const HeightAboveMinimum<T>& a) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace<T> counted(arena, a.num_cells);
  return arena.used();
}
template size_t height_above_minimum_workspace_bytes(const HeightAboveMinimum<float>& a);
template size_t height_above_minimum_workspace_bytes(const HeightAboveMinimum<double>& a);

void height_above_minimum_cuda(const HeightAboveMinimum<float>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}
void height_above_minimum_cuda(const HeightAboveMinimum<double>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}

}  // namespace pcseg
