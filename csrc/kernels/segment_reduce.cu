#include <cassert>

#include "cuda_launch.h"
#include "segment_reduce_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// Segments are cut into blocks of segment_block rows, as on the CPU. Block b of segment s has the slot
// s + offsets[s] / segment_block + b: no two share one, and there are num_segments + num_rows / segment_block + 1.
__device__ int64_t first_slot(const int64_t* offsets, int64_t segment) {
  return segment + offsets[segment] / segment_block;
}

int64_t num_slots(int64_t num_segments, int64_t num_rows) { return num_segments + num_rows / segment_block + 1; }

// The segment whose slots hold `slot`: the last with first_slot <= slot; -1 if none.
__device__ int64_t segment_of_slot(const int64_t* offsets, int64_t num_segments, int64_t slot) {
  int64_t low = 0, high = num_segments;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (first_slot(offsets, middle) <= slot)
      low = middle + 1;
    else
      high = middle;
  }
  return low - 1;
}

template <class T>
struct Best {
  T value;
  int64_t row;

  __device__ void consider(T other, int64_t other_row) {
    const bool better = other > value || (other != other && value == value);
    row = better ? other_row : row;
    value = better ? other : value;
  }
};

// One thread a block of rows and channel. Whole segments go to the result, blocks of longer ones to `part`.
template <class T>
__global__ void __launch_bounds__(kThreads)
    blocks_kernel(SegmentReduce<T> a, int64_t num_rows, int64_t slots, T* part, int64_t* part_arg) {
  for (int64_t i = thread_in_grid(); i < slots * a.channels; i += threads_in_grid()) {
    const int64_t slot = i / a.channels, c = i % a.channels;
    const int64_t s = segment_of_slot(a.offsets, a.num_segments, slot);
    if (s < 0) continue;
    const int64_t begin = a.offsets[s], end = a.offsets[s + 1];
    assert(0 <= begin && begin <= end && end <= num_rows);
    const int64_t block = slot - first_slot(a.offsets, s), first = begin + block * segment_block;
    if (first >= end && block > 0) continue;
    const int64_t last = min(end, first + segment_block);
    const bool whole = end - begin <= segment_block;
    T* out = whole ? a.out + s * a.channels + c : part + i;
    if (a.reduce == Reduce::max) {
      Best<T> best{0, -1};
      if (first < last) best = {a.values[first * a.channels + c], first};
      for (int64_t row = first + 1; row < last; ++row) best.consider(a.values[row * a.channels + c], row);
      *out = best.value;
      *(whole ? a.arg + s * a.channels + c : part_arg + i) = best.row;
    } else {
      T sum = 0;
#pragma unroll 4
      for (int64_t row = first; row < last; ++row) sum += a.values[row * a.channels + c];
      *out = whole && a.reduce == Reduce::mean && last > first ? sum / static_cast<T>(last - first) : sum;
    }
  }
}

// Joins the blocks of the segments that have several, in order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_kernel(SegmentReduce<T> a, const T* part, const int64_t* part_arg) {
  for (int64_t i = thread_in_grid(); i < a.num_segments * a.channels; i += threads_in_grid()) {
    const int64_t s = i / a.channels, c = i % a.channels, rows = a.offsets[s + 1] - a.offsets[s];
    if (rows <= segment_block) continue;
    const int64_t blocks = (rows + segment_block - 1) / segment_block;
    const int64_t first = first_slot(a.offsets, s) * a.channels + c;
    if (a.reduce == Reduce::max) {
      Best<T> best{part[first], part_arg[first]};
      for (int64_t at = first + a.channels; at < first + blocks * a.channels; at += a.channels)
        best.consider(part[at], part_arg[at]);
      a.out[i] = best.value;
      a.arg[i] = best.row;
    } else {
      T sum = 0;
      for (int64_t b = 0; b < blocks; ++b) sum += part[first + b * a.channels];
      a.out[i] = a.reduce == Reduce::mean ? sum / static_cast<T>(rows) : sum;
    }
  }
}

// One warp a row.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(SegmentReduceBackward<T> a) {
  for (int64_t row = thread_in_grid() / kWarp; row < a.num_rows; row += threads_in_grid() / kWarp) {
    const int64_t s = cloud_of(a.offsets, a.num_segments, row);
    const bool inside = s >= 0 && s < a.num_segments;
    const int64_t rows = inside ? a.offsets[s + 1] - a.offsets[s] : 0;
    for (int64_t c = lane_id(); c < a.channels; c += kWarp) {
      T grad = inside ? a.grad[s * a.channels + c] : T(0);
      if (inside && a.reduce == Reduce::mean) grad /= static_cast<T>(rows);
      if (inside && a.reduce == Reduce::max && a.arg[s * a.channels + c] != row) grad = 0;
      a.grad_values[row * a.channels + c] = grad;
    }
  }
}

template <class T>
struct Workspace {
  T* part;
  int64_t* part_arg;

  Workspace(Arena& arena, const SegmentReduce<T>& a, int64_t num_rows) {
    const int64_t parts = num_rows > segment_block ? num_slots(a.num_segments, num_rows) * a.channels : 0;
    part = arena.take<T>(parts);
    part_arg = arena.take<int64_t>(a.reduce == Reduce::max ? parts : 0);
  }
};

template <class T>
void run(const SegmentReduce<T>& a, int64_t num_rows, void* workspace, void* stream) {
  if (a.num_segments == 0 || a.channels == 0) return;
  constexpr auto what = "segment_reduce";
  Arena arena(workspace);
  const Workspace<T> w(arena, a, num_rows);
  const int64_t slots = num_slots(a.num_segments, num_rows);
  launch(what, blocks_kernel<T>, blocks_for(slots * a.channels, kThreads), kThreads, 0, stream, a, num_rows, slots,
         w.part, w.part_arg);
  if (num_rows > segment_block)
    launch(what, join_kernel<T>, blocks_for(a.num_segments * a.channels, kThreads), kThreads, 0, stream, a, w.part,
           w.part_arg);
}

template <class T>
void run_backward(const SegmentReduceBackward<T>& a, void* stream) {
  if (a.num_rows == 0 || a.channels == 0) return;
  launch("segment_reduce_backward", backward_kernel<T>, blocks_for(a.num_rows * kWarp, kThreads), kThreads, 0, stream,
         a);
}

}  // namespace
}  // namespace cuda

template <class T>
size_t segment_reduce_workspace_bytes(const SegmentReduce<T>& a, int64_t num_rows) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace<T> counted(arena, a, num_rows);
  return arena.used();
}
template size_t segment_reduce_workspace_bytes(const SegmentReduce<float>& a, int64_t num_rows);
template size_t segment_reduce_workspace_bytes(const SegmentReduce<double>& a, int64_t num_rows);

void segment_reduce_cuda(const SegmentReduce<float>& a, int64_t num_rows, void* workspace, void* stream) {
  cuda::run(a, num_rows, workspace, stream);
}
void segment_reduce_cuda(const SegmentReduce<double>& a, int64_t num_rows, void* workspace, void* stream) {
  cuda::run(a, num_rows, workspace, stream);
}
void segment_reduce_backward_cuda(const SegmentReduceBackward<float>& a, void* stream) {
  cuda::run_backward(a, stream);
}
void segment_reduce_backward_cuda(const SegmentReduceBackward<double>& a, void* stream) {
  cuda::run_backward(a, stream);
}

}  // namespace pcseg
