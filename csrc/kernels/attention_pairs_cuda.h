// What the kernels of a vector attention share on a GPU: the differences, and what a gradient of the pairs means for
// the rows and parameters that they come from.
#pragma once

#include <cassert>

#include "cuda_launch.h"
#include "row_lists.h"
#include "vector_attention_cuda.h"

namespace pcseg::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPositions = 4;        // position channels whose sums a lane holds
constexpr int64_t kMaxParts = 1024;  // of the queries, whose sums are added up afterwards: enough for the largest GPU

template <class T>
int64_t num_parts(const AttentionPairs<T>& a) {
  return std::clamp<int64_t>((a.num_query + 2 * kWarps - 1) / (2 * kWarps), 1, kMaxParts);
}

// The neighbour of pair e, or -1.
template <class T>
__device__ int64_t neighbor(const AttentionPairs<T>& a, int64_t e) {
  const int64_t j = a.neighbors[e];
  assert(0 <= j && j <= a.num_key);
  return 0 <= j && j < a.num_key ? j : -1;
}

// Channel c of a position code, and of a difference.
template <class T>
__device__ T delta(const AttentionPairs<T>& a, int64_t e, int64_t c) {
  T sum = a.position_bias[c];
  for (int64_t p = 0; p < a.position_channels; ++p)
    sum = fma(a.position[e * a.position_channels + p], a.position_weight[c * a.position_channels + p], sum);
  return sum;
}
template <class T>
__device__ T difference(const AttentionPairs<T>& a, int64_t e, int64_t m, int64_t j, int64_t c) {
  return a.query[m * a.channels + c] - a.key[j * a.channels + c] + delta(a, e, c);
}

// Sums of (rows, channels) for each part of the queries. Rows: position_weight, position_bias, and with a norm its
// scale and shift.
template <class T>
struct PartSums {
  T* sums;
  int64_t parts, rows;

  __device__ T& at(int64_t part, int64_t row, int64_t c, int64_t channels) const {
    return sums[(part * rows + row) * channels + c];
  }
};

// One number for each lane, added over the block's warps; what the first warp's lanes get.
template <class T>
__device__ T sum_warps(T value, T (*shared)[kWarp]) {
  __syncthreads();
  shared[threadIdx.x / kWarp][lane_id()] = value;
  __syncthreads();
  T sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp][lane_id()];
  return sum;
}

// Gradient(e, m, j, c, scale_sum, shift_sum) is the gradient of channel c of pair e's (difference or value + delta);
// where Gradient::kNorm it adds to the sums of a norm's scale and shift.
// A block a part of the queries, a warp a query, a lane a channel. query' is not written where it is null.
template <class T, class Gradient>
__global__ void __launch_bounds__(kThreads)
    by_query_kernel(AttentionPairs<T> a, Gradient gradient, AttentionPairGradients<T> g, PartSums<T> sums) {
  __shared__ T shared[kWarps][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
  const int64_t positions = a.position_channels;
  for (int64_t part = blockIdx.x; part < sums.parts; part += gridDim.x) {
    const int64_t begin = a.num_query * part / sums.parts, end = a.num_query * (part + 1) / sums.parts;
    for (int64_t first = 0; first < a.channels; first += kWarp)
      for (int64_t p = 0; p < positions; p += kPositions) {
        const int64_t c = first + lane;
        const bool real = c < a.channels;
        T weight[kPositions], weight_sum[kPositions] = {}, bias_sum = 0, scale_sum = 0, shift_sum = 0;
#pragma unroll
        for (int n = 0; n < kPositions; ++n)
          weight[n] = real && p + n < positions ? a.position_weight[c * positions + p + n] : T(0);
        for (int64_t m = begin + warp; m < end; m += kWarps) {
          T sum = 0;
          for (int64_t e = m * a.num_neighbors; e < (m + 1) * a.num_neighbors; ++e) {
            const int64_t j = neighbor(a, e);
            const T grad = real && j >= 0 ? gradient(e, m, j, c, scale_sum, shift_sum) : T(0);
            sum += grad;
#pragma unroll
            for (int n = 0; n < kPositions; ++n) {
              if (p + n >= positions) break;
              const int64_t at = e * positions + p + n;
              if (j >= 0) weight_sum[n] = fma(grad, a.position[at], weight_sum[n]);
              const T dot = warp_sum(grad * weight[n]);
              if (lane == 0) g.position[at] = (first > 0 ? g.position[at] : T(0)) + dot;
            }
          }
          bias_sum += sum;
          if (g.query && real && p == 0) g.query[m * a.channels + c] = sum;
        }
#pragma unroll
        for (int n = 0; n < kPositions; ++n) {
          if (p + n >= positions) break;
          const T sum = sum_warps(weight_sum[n], shared);
          if (warp == 0 && real) sums.at(part, p + n, c, a.channels) = sum;
        }
        if (p > 0) continue;
        bias_sum = sum_warps(bias_sum, shared);
        if (warp == 0 && real) sums.at(part, positions, c, a.channels) = bias_sum;
        if constexpr (Gradient::kNorm) {
          scale_sum = sum_warps(scale_sum, shared);
          if (warp == 0 && real) sums.at(part, positions + 1, c, a.channels) = scale_sum;
          shift_sum = sum_warps(shift_sum, shared);
          if (warp == 0 && real) sums.at(part, positions + 2, c, a.channels) = shift_sum;
        }
      }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    join_kernel(AttentionPairs<T> a, PartSums<T> sums, AttentionPairGradients<T> g, T* scale, T* shift) {
  const int64_t positions = a.position_channels;
  for (int64_t i = thread_in_grid(); i < sums.rows * a.channels; i += threads_in_grid()) {
    const int64_t row = i / a.channels, c = i % a.channels;
    T sum = 0;
    for (int64_t part = 0; part < sums.parts; ++part) sum += sums.at(part, row, c, a.channels);
    if (row < positions)
      g.position_weight[c * positions + row] = sum;
    else
      (row == positions ? g.position_bias : row == positions + 1 ? scale : shift)[c] = sum;
  }
}

// key'[j] = sign * sum over the pairs that name j of their gradients. A warp a key, a lane a channel.
template <class T, class Gradient>
__global__ void __launch_bounds__(kThreads)
    by_key_kernel(AttentionPairs<T> a, Gradient gradient, RowLists lists, T sign, T* grad_key) {
  for (int64_t j = thread_in_grid() / kWarp; j < a.num_key; j += threads_in_grid() / kWarp)
    for (int64_t c = lane_id(); c < a.channels; c += kWarp) {
      T sum = 0, unused_scale = 0, unused_shift = 0;
      for (int32_t i = lists.first[j]; i < lists.first[j + 1]; ++i) {
        const int64_t e = lists.entry[i];
        sum += gradient(e, e / a.num_neighbors, j, c, unused_scale, unused_shift);
      }
      grad_key[j * a.channels + c] = sign * sum;
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) named_key_kernel(AttentionPairs<T> a, uint64_t* key) {
  for (int64_t e = thread_in_grid(); e < a.num_query * a.num_neighbors; e += threads_in_grid()) {
    const int64_t j = neighbor(a, e);
    key[e] = static_cast<uint64_t>(j >= 0 ? j : a.num_key);
  }
}

// The workspace of a gradient: the pairs by key, and the parts' sums.
template <class T>
struct PairWorkspace {
  uint64_t* named;
  unsigned char* lists;
  PartSums<T> sums;

  PairWorkspace(Arena& arena, const AttentionPairs<T>& a, bool norm) {
    const int64_t pairs = a.num_query * a.num_neighbors;
    named = arena.take<uint64_t>(pairs);
    lists = arena.take<unsigned char>(static_cast<int64_t>(row_lists_bytes(pairs, a.num_key)));
    sums.parts = num_parts(a);
    sums.rows = a.position_channels + (norm ? 3 : 1);
    sums.sums = arena.take<T>(sums.parts * sums.rows * a.channels);
  }
};

template <class T>
RowLists pairs_by_key(const char* what, const AttentionPairs<T>& a, const PairWorkspace<T>& w, void* stream) {
  const int64_t pairs = a.num_query * a.num_neighbors;
  if (pairs > 0) launch(what, named_key_kernel<T>, blocks_for(pairs, kThreads), kThreads, 0, stream, a, w.named);
  return group_by_row(w.named, pairs, a.num_key, w.lists, stream);
}

// All that `gradient` means for the rows and the parameters of the pairs.
template <class T, class Gradient>
void pair_gradients(const char* what, const AttentionPairs<T>& a, const Gradient& gradient, const RowLists& lists,
                    T key_sign, const AttentionPairGradients<T>& g, T* scale, T* shift, const PartSums<T>& sums,
                    void* stream) {
  launch(what, by_query_kernel<T, Gradient>, static_cast<unsigned>(sums.parts), kThreads, 0, stream, a, gradient, g,
         sums);
  launch(what, join_kernel<T>, blocks_for(sums.rows * a.channels, kThreads), kThreads, 0, stream, a, sums, g, scale,
         shift);
  if (a.num_key > 0)
    launch(what, by_key_kernel<T, Gradient>, blocks_for(a.num_key * kWarp, kThreads), kThreads, 0, stream, a, gradient,
           lists, key_sign, g.key);
}

}  // namespace
}  // namespace pcseg::cuda
