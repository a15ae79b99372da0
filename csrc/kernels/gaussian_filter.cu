#include <cassert>

#include "cuda_launch.h"
#include "gaussian_filter_cuda.h"
#include "row_lists.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChannelsAtOnce = 64;
constexpr auto kWhat = "gaussian_filter";

// The channels channel .. channel + width - 1; a row of `from` and `to` has `width` numbers.
template <class T>
struct Pass {
  GaussianFilter<T> a;
  int64_t channel, width;
  T *from, *to;
};

__global__ void __launch_bounds__(kThreads)
    target_kernel(const int32_t* vertices, int64_t entries, int64_t num_vertices, uint64_t* target) {
  for (int64_t e = thread_in_grid(); e < entries; e += threads_in_grid()) {
    assert(0 <= vertices[e] && vertices[e] < num_vertices);
    target[e] = static_cast<uint64_t>(vertices[e]);
  }
}

// One thread a lattice point and channel. Sums by parts of the points, as on a CPU.
template <class T>
__global__ void __launch_bounds__(kThreads) splat_kernel(Pass<T> p, RowLists lists, int64_t points_at_once) {
  const int colours = p.a.dims + 1;
  const int64_t entries_at_once = points_at_once * colours;
  for (int64_t i = thread_in_grid(); i < (p.a.num_vertices + 1) * p.width; i += threads_in_grid()) {
    const int64_t m = i / p.width, c = p.channel + i % p.width;
    T total = 0, sum = 0;
    if (m < p.a.num_vertices) {
      int64_t end = entries_at_once;
      for (int32_t at = lists.first[m]; at < lists.first[m + 1]; ++at) {
        const int32_t entry = lists.entry[at];
        if (entry >= end) {
          total += sum;
          sum = 0;
          end = (entry / entries_at_once + 1) * entries_at_once;
        }
        sum += p.a.weights[entry] * p.a.values[static_cast<int64_t>(entry / colours) * p.a.channels + c];
      }
    }
    p.from[i] = total + sum;
    if (m == p.a.num_vertices) p.to[i] = 0;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) blur_kernel(Pass<T> p, int axis) {
  const int64_t rows = p.a.num_vertices;
  const int32_t* const neighbors = p.a.neighbors + axis * (rows + 1) * 2;
  for (int64_t i = thread_in_grid(); i < rows * p.width; i += threads_in_grid()) {
    const int64_t m = i / p.width, c = i % p.width, next = neighbors[2 * m], before = neighbors[2 * m + 1];
    assert(0 <= next && next <= rows && 0 <= before && before <= rows);
    p.to[i] = p.from[i] + (p.from[next * p.width + c] + p.from[before * p.width + c]) * T(0.5);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) slice_kernel(Pass<T> p) {
  const int colours = p.a.dims + 1;
  for (int64_t j = thread_in_grid(); j < p.a.num_points * p.width; j += threads_in_grid()) {
    const int64_t i = j / p.width, c = j % p.width;
    T sum = 0;
    for (int k = 0; k < colours; ++k)
      sum += p.from[p.a.vertices[i * colours + k] * p.width + c] * p.a.weights[i * colours + k];
    p.a.out[i * p.a.channels + p.channel + c] = sum;
  }
}

template <class T>
struct Workspace {
  T *first, *second;
  uint64_t* target;
  unsigned char* lists;

  Workspace(Arena& arena, const GaussianFilter<T>& a) {
    const int64_t row = std::min(a.channels, kChannelsAtOnce), entries = a.num_points * (a.dims + 1);
    first = arena.take<T>((a.num_vertices + 1) * row);
    second = arena.take<T>((a.num_vertices + 1) * row);
    target = arena.take<uint64_t>(entries);
    lists = arena.take<unsigned char>(static_cast<int64_t>(row_lists_bytes(entries, a.num_vertices)));
  }
};

template <class T>
void run(const GaussianFilter<T>& a, void* workspace, void* stream) {
  if (a.num_points == 0 || a.channels == 0) return;
  Arena arena(workspace);
  const Workspace<T> w(arena, a);
  const int64_t entries = a.num_points * (a.dims + 1);
  launch(kWhat, target_kernel, blocks_for(entries, kThreads), kThreads, 0, stream, a.vertices, entries, a.num_vertices,
         w.target);
  const RowLists lists = group_by_row(w.target, entries, a.num_vertices, w.lists, stream);
  for (int64_t channel = 0; channel < a.channels; channel += kChannelsAtOnce) {
    Pass<T> p{a, channel, std::min(kChannelsAtOnce, a.channels - channel), w.first, w.second};
    const unsigned blocks = blocks_for((a.num_vertices + 1) * p.width, kThreads);
    launch(kWhat, splat_kernel<T>, blocks, kThreads, 0, stream, p, lists, splat_points(a.num_vertices, a.dims));
    for (int j = 0; j <= a.dims; ++j) {
      launch(kWhat, blur_kernel<T>, blocks, kThreads, 0, stream, p, a.transpose ? a.dims - j : j);
      std::swap(p.from, p.to);
    }
    launch(kWhat, slice_kernel<T>, blocks_for(a.num_points * p.width, kThreads), kThreads, 0, stream, p);
  }
}

}  // namespace
}  // namespace cuda

template <class T>
size_t gaussian_filter_workspace_bytes(const GaussianFilter<T>& a) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace<T> counted(arena, a);
  return arena.used();
}
template size_t gaussian_filter_workspace_bytes(const GaussianFilter<float>& a);
template size_t gaussian_filter_workspace_bytes(const GaussianFilter<double>& a);

void gaussian_filter_cuda(const GaussianFilter<float>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}
void gaussian_filter_cuda(const GaussianFilter<double>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}

}  // namespace pcseg
