#include <cassert>

#include "cuda_launch.h"
#include "gather_neighbors_cuda.h"
#include "row_lists.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// One warp an entry.
template <class T>
__global__ void __launch_bounds__(kThreads) gather_kernel(GatherNeighbors<T> a) {
  for (int64_t j = thread_in_grid() / kWarp; j < a.num_entries; j += threads_in_grid() / kWarp) {
    const int64_t row = a.neighbors[j];
    assert(0 <= row && row <= a.num_rows);
    for (int64_t c = lane_id(); c < a.channels; c += kWarp)
      a.out[j * a.channels + c] = row < a.num_rows ? a.values[row * a.channels + c] : a.fill;
  }
}

__global__ void __launch_bounds__(kThreads)
    row_kernel(const int64_t* neighbors, int64_t num_entries, int64_t num_rows, uint64_t* rows) {
  for (int64_t j = thread_in_grid(); j < num_entries; j += threads_in_grid()) {
    const int64_t row = neighbors[j];
    rows[j] = static_cast<uint64_t>(0 <= row && row < num_rows ? row : num_rows);
  }
}

// One warp a row.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_kernel(GatherNeighborsBackward<T> a, RowLists lists) {
  for (int64_t row = thread_in_grid() / kWarp; row < a.num_rows; row += threads_in_grid() / kWarp) {
    const int32_t first = lists.first[row], last = lists.first[row + 1];
    for (int64_t c = lane_id(); c < a.channels; c += kWarp) {
      T sum = 0;
#pragma unroll 4
      for (int32_t i = first; i < last; ++i) sum += a.grad[lists.entry[i] * a.channels + c];
      a.grad_values[row * a.channels + c] = sum;
    }
  }
}

template <class T>
void run(const GatherNeighbors<T>& a, void* stream) {
  if (a.num_entries == 0 || a.channels == 0) return;
  launch("gather_neighbors", gather_kernel<T>, blocks_for(a.num_entries * kWarp, kThreads), kThreads, 0, stream, a);
}

template <class T>
void run(const GatherNeighborsBackward<T>& a, void* workspace, void* stream) {
  if (a.num_rows == 0 || a.channels == 0) return;
  constexpr auto what = "gather_neighbors_backward";
  Arena arena(workspace);
  uint64_t* rows = arena.take<uint64_t>(a.num_entries);
  unsigned char* rest = arena.take<unsigned char>(0);
  if (a.num_entries > 0)
    launch(what, row_kernel, blocks_for(a.num_entries, kThreads), kThreads, 0, stream, a.neighbors, a.num_entries,
           a.num_rows, rows);
  const RowLists lists = group_by_row(rows, a.num_entries, a.num_rows, rest, stream);
  launch(what, sum_kernel<T>, blocks_for(a.num_rows * kWarp, kThreads), kThreads, 0, stream, a, lists);
}

}  // namespace
}  // namespace cuda

void gather_neighbors_cuda(const GatherNeighbors<float>& a, void* stream) { cuda::run(a, stream); }
void gather_neighbors_cuda(const GatherNeighbors<double>& a, void* stream) { cuda::run(a, stream); }

size_t gather_neighbors_backward_workspace_bytes(int64_t num_entries, int64_t num_rows) {
  cuda::Arena arena(nullptr);
  arena.take<uint64_t>(num_entries);
  return arena.used() + cuda::row_lists_bytes(num_entries, num_rows);
}
void gather_neighbors_backward_cuda(const GatherNeighborsBackward<float>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}
void gather_neighbors_backward_cuda(const GatherNeighborsBackward<double>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}

}  // namespace pcseg
