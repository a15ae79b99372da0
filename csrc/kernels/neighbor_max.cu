#include <cassert>
#include <limits>

#include "cuda_launch.h"
#include "neighbor_max_cuda.h"
#include "row_lists.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// Channels are sorted so many entries at a time: bounds the workspace, and one pass serves most layers.
constexpr int64_t kSortedEntries = int64_t{1} << 23;

// One warp a list.
template <class T>
__global__ void __launch_bounds__(kThreads) max_kernel(NeighborMax<T> a) {
  for (int64_t m = thread_in_grid() / kWarp; m < a.num_lists; m += threads_in_grid() / kWarp) {
    const int64_t* list = a.neighbors + m * a.width;
    for (int64_t c = lane_id(); c < a.channels; c += kWarp) {
      T best = 0;
      int64_t where = a.num_rows;
      for (int64_t h = 0; h < a.width; ++h) {
        const int64_t row = list[h];
        assert(0 <= row && row <= a.num_rows);
        if (row == a.num_rows) continue;
        const T value = a.values[row * a.channels + c];
        if (where == a.num_rows || value > best || (value != value && best == best)) {
          best = value;
          where = row;
        }
      }
      a.out[m * a.channels + c] = best;
      a.arg[m * a.channels + c] = static_cast<int32_t>(where);
    }
  }
}

// Channels channel .. channel + width - 1 as rows of their own: row * width + c.
__global__ void __launch_bounds__(kThreads) target_kernel(const int32_t* arg, int64_t num_lists, int64_t num_rows,
                                                          int64_t channels, int64_t channel, int64_t width,
                                                          uint64_t* target) {
  for (int64_t i = thread_in_grid(); i < num_lists * width; i += threads_in_grid()) {
    const int64_t m = i / width, c = i % width, row = arg[m * channels + channel + c];
    assert(0 <= row && row <= num_rows);
    target[i] = static_cast<uint64_t>(row < num_rows ? row * width + c : num_rows * width);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(NeighborMaxBackward<T> a, int64_t channel, int64_t width, RowLists lists) {
  for (int64_t i = thread_in_grid(); i < a.num_rows * width; i += threads_in_grid()) {
    T sum = 0;
    for (int32_t e = lists.first[i]; e < lists.first[i + 1]; ++e) {
      const int64_t entry = lists.entry[e];
      sum += a.grad[entry / width * a.channels + channel + entry % width];
    }
    a.grad_values[i / width * a.channels + channel + i % width] = sum;
  }
}

template <class T>
void run(const NeighborMax<T>& a, void* stream) {
  if (a.num_lists == 0 || a.channels == 0) return;
  launch("neighbor_max", max_kernel<T>, blocks_for(a.num_lists * kWarp, kThreads), kThreads, 0, stream, a);
}

int64_t channels_at_once(int64_t num_lists, int64_t num_rows, int64_t channels) {
  const int64_t longest = std::max({num_lists, num_rows, int64_t{1}});
  return std::max<int64_t>(1, std::min(kSortedEntries / longest, channels));
}

template <class T>
void run(const NeighborMaxBackward<T>& a, void* workspace, void* stream) {
  if (a.num_rows == 0 || a.channels == 0) return;
  constexpr auto what = "neighbor_max_backward";
  const int64_t at_once = channels_at_once(a.num_lists, a.num_rows, a.channels);
  Arena arena(workspace);
  uint64_t* target = arena.take<uint64_t>(a.num_lists * at_once);
  unsigned char* rest = arena.take<unsigned char>(0);
  for (int64_t channel = 0; channel < a.channels; channel += at_once) {
    const int64_t width = std::min(at_once, a.channels - channel), entries = a.num_lists * width;
    if (entries > 0)
      launch(what, target_kernel, blocks_for(entries, kThreads), kThreads, 0, stream, a.arg, a.num_lists, a.num_rows,
             a.channels, channel, width, target);
    const RowLists lists = group_by_row(target, entries, a.num_rows * width, rest, stream);
    launch(what, sum_kernel<T>, blocks_for(a.num_rows * width, kThreads), kThreads, 0, stream, a, channel, width,
           lists);
  }
}

}  // namespace
}  // namespace cuda

void neighbor_max_cuda(const NeighborMax<float>& a, void* stream) { cuda::run(a, stream); }
void neighbor_max_cuda(const NeighborMax<double>& a, void* stream) { cuda::run(a, stream); }

size_t neighbor_max_backward_workspace_bytes(int64_t num_lists, int64_t num_rows, int64_t channels) {
  const int64_t at_once = cuda::channels_at_once(num_lists, num_rows, channels);
  cuda::Arena arena(nullptr);
  arena.take<uint64_t>(num_lists * at_once);
  return arena.used() + cuda::row_lists_bytes(num_lists * at_once, num_rows * at_once);
}
void neighbor_max_backward_cuda(const NeighborMaxBackward<float>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}
void neighbor_max_backward_cuda(const NeighborMaxBackward<double>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}

}  // namespace pcseg
