#include "attention_pairs_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

// Count, mean and sum of squared deviations (Chan, Golub, LeVeque 1979).
struct Moments {
  double count = 0, mean = 0, squares = 0;

  __device__ void join(double n, double other_mean, double other_squares) {
    if (n == 0) return;
    const double sum = count + n, share = n / sum, difference = other_mean - mean;
    squares += other_squares + count * share * difference * difference;
    mean += share * difference;
    count = sum;
  }
};

// parts (3, parts, channels): counts, means, squares. A block a part of the queries, a warp a query, a lane a channel.
template <class T>
__global__ void __launch_bounds__(kThreads) moments_kernel(AttentionPairs<T> a, int64_t parts, double* sums) {
  __shared__ double shared[3][kWarps][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    const int64_t begin = a.num_query * part / parts, end = a.num_query * (part + 1) / parts;
    for (int64_t first = 0; first < a.channels; first += kWarp) {
      const int64_t c = first + lane;
      Moments moments;
      for (int64_t m = begin + warp; c < a.channels && m < end; m += kWarps) {
        T start = 0, sum = 0, squares = 0;
        int64_t count = 0;
        for (int64_t e = m * a.num_neighbors; e < (m + 1) * a.num_neighbors; ++e) {
          const int64_t j = neighbor(a, e);
          if (j < 0) continue;
          const T x = difference(a, e, m, j, c);
          if (count++ == 0) start = x;
          sum += x - start;
          squares = fma(x - start, x - start, squares);
        }
        if (count == 0) continue;
        const double n = static_cast<double>(count), total = sum, left = squares - total * total / n;
        moments.join(n, start + total / n, left < 0 ? 0 : left);
      }
      __syncthreads();
      shared[0][warp][lane] = moments.count;
      shared[1][warp][lane] = moments.mean;
      shared[2][warp][lane] = moments.squares;
      __syncthreads();
      if (warp > 0 || c >= a.channels) continue;
      for (int other = 1; other < kWarps; ++other)
        moments.join(shared[0][other][lane], shared[1][other][lane], shared[2][other][lane]);
      sums[part * a.channels + c] = moments.count;
      sums[(parts + part) * a.channels + c] = moments.mean;
      sums[(2 * parts + part) * a.channels + c] = moments.squares;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    join_moments_kernel(const double* sums, int64_t parts, int64_t channels, T* mean, T* var) {
  for (int64_t c = thread_in_grid(); c < channels; c += threads_in_grid()) {
    Moments moments;
    for (int64_t part = 0; part < parts; ++part)
      moments.join(sums[part * channels + c], sums[(parts + part) * channels + c],
                   sums[(2 * parts + part) * channels + c]);
    mean[c] = static_cast<T>(moments.mean);
    var[c] = static_cast<T>(moments.count > 0 ? moments.squares / moments.count : 0);
  }
}

// The gradient of a difference x is (grad_mean + 2 grad_var (x - mean)) / count.
template <class T>
struct StatisticsGradient {
  static constexpr bool kNorm = false;
  AttentionPairs<T> a;
  const T *grad_mean, *grad_var, *mean;
  const int32_t* count;  // of all pairs that have a neighbour

  __device__ T operator()(int64_t e, int64_t m, int64_t j, int64_t c, T&, T&) const {
    const T centred = difference(a, e, m, j, c) - mean[c];
    return fma(2 * grad_var[c], centred, grad_mean[c]) / static_cast<T>(*count);
  }
};

}  // namespace
}  // namespace cuda

template <class T>
size_t attention_statistics_workspace_bytes(const AttentionStatistics<T>& a) {
  cuda::Arena arena(nullptr);
  arena.take<double>(3 * cuda::num_parts(a.pairs) * a.pairs.channels);
  return arena.used();
}

template <class T>
void attention_statistics_cuda(const AttentionStatistics<T>& a, void* workspace, void* stream) {
  using namespace cuda;
  constexpr auto what = "attention_statistics";
  const int64_t parts = num_parts(a.pairs), channels = a.pairs.channels;
  Arena arena(workspace);
  double* sums = arena.take<double>(3 * parts * channels);
  launch(what, moments_kernel<T>, static_cast<unsigned>(parts), kThreads, 0, stream, a.pairs, parts, sums);
  launch(what, join_moments_kernel<T>, blocks_for(channels, kThreads), kThreads, 0, stream, sums, parts, channels,
         a.mean, a.var);
}

template <class T>
size_t attention_statistics_backward_workspace_bytes(const AttentionPairs<T>& a) {
  cuda::Arena arena(nullptr);
  const cuda::PairWorkspace<T> counted(arena, a, false);
  return arena.used();
}

template <class T>
void attention_statistics_backward_cuda(const AttentionPairs<T>& a, const AttentionStatisticsGradients<T>& g,
                                        void* workspace, void* stream) {
  using namespace cuda;
  constexpr auto what = "attention_statistics_backward";
  Arena arena(workspace);
  const PairWorkspace<T> w(arena, a, false);
  const RowLists lists = pairs_by_key(what, a, w, stream);
  const StatisticsGradient<T> gradient{a, g.grad_mean, g.grad_var, g.mean, lists.first + a.num_key};
  pair_gradients(what, a, gradient, lists, T(-1), g.pairs, static_cast<T*>(nullptr), static_cast<T*>(nullptr), w.sums,
                 stream);
}

#define PCSEG_INSTANTIATE(T)                                                                                           \
  template size_t attention_statistics_workspace_bytes(const AttentionStatistics<T>& a);                               \
  template void attention_statistics_cuda(const AttentionStatistics<T>& a, void* workspace, void* stream);             \
  template size_t attention_statistics_backward_workspace_bytes(const AttentionPairs<T>& a);                           \
  template void attention_statistics_backward_cuda(const AttentionPairs<T>& a, const AttentionStatisticsGradients<T>& g, \
                                                   void* workspace, void* stream);
PCSEG_INSTANTIATE(float)
PCSEG_INSTANTIATE(double)
#undef PCSEG_INSTANTIATE

}  // namespace pcseg
