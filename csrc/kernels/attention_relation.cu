#include "attention_pairs_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kPairs = 32;  // of a tile

template <class T>
__device__ T normed(const AttentionRelation<T>& a, T x, int64_t c) {
  return fma(a.scale[c], x, a.shift[c]);
}

// A block a tile of pairs and 32 outputs, 32 channels at a time: thread t makes outputs t % 8 + 8 i of pair t / 8.
template <class T>
__global__ void __launch_bounds__(kThreads) relation_kernel(AttentionRelation<T> r, T* out) {
  constexpr int kOut = 32, kStep = 8;
  __shared__ T rows[kPairs][kWarp + 1], weights[kOut][kWarp + 1];
  const AttentionPairs<T>& a = r.pairs;
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarp;
  const int pair = static_cast<int>(threadIdx.x) / kStep, output = static_cast<int>(threadIdx.x) % kStep;
  const int64_t first_out = int64_t{blockIdx.y} * kOut, count = a.num_query * a.num_neighbors;
  for (int64_t tile = blockIdx.x; tile * kPairs < count; tile += gridDim.x) {
    T sum[kOut / kStep] = {};
    for (int64_t first = 0; first < a.channels; first += kWarp) {
      const int64_t c = first + lane;
      for (int i = warp; i < kPairs; i += kWarps) {
        const int64_t e = tile * kPairs + i, j = e < count && c < a.channels ? neighbor(a, e) : -1;
        const T z = j >= 0 ? normed(r, difference(a, e, e / a.num_neighbors, j, c), c) : T(0);
        rows[i][lane] = z <= 0 ? T(0) : z;
      }
      for (int i = warp; i < kOut; i += kWarps)
        weights[i][lane] =
            first_out + i < r.out_channels && c < a.channels ? r.weight[(first_out + i) * a.channels + c] : T(0);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kOut / kStep; ++i) {
        if (first_out + i * kStep >= r.out_channels) break;
        for (int d = 0; d < kWarp; ++d) sum[i] = fma(rows[pair][d], weights[output + i * kStep][d], sum[i]);
      }
      __syncthreads();
    }
    const int64_t e = tile * kPairs + pair;
    if (e >= count) continue;
    const bool exists = neighbor(a, e) >= 0;
#pragma unroll
    for (int i = 0; i < kOut / kStep; ++i) {
      const int64_t o = first_out + output + i * kStep;
      if (o < r.out_channels) out[e * r.out_channels + o] = exists ? sum[i] + r.bias[o] : T(0);
    }
  }
}

template <class T>
struct RelationGradient {
  static constexpr bool kNorm = true;
  AttentionRelation<T> a;
  const T* grad_out;

  __device__ T operator()(int64_t e, int64_t m, int64_t j, int64_t c, T& scale_sum, T& shift_sum) const {
    const T x = difference(a.pairs, e, m, j, c);
    if (!(normed(a, x, c) > 0)) return T(0);
    T grad = 0;
    for (int64_t o = 0; o < a.out_channels; ++o)
      grad = fma(grad_out[e * a.out_channels + o], a.weight[o * a.pairs.channels + c], grad);
    scale_sum = fma(grad, x, scale_sum);
    shift_sum += grad;
    return a.scale[c] * grad;
  }
};

// part[o, c] = sum over the part's pairs of grad_out[o] * ReLU[c], and behind these part[o] = sum of grad_out[o].
// blockIdx.x: parts; blockIdx.y, z: tiles of outputs and channels.
constexpr int kEdge = 64;

template <class T>
int64_t num_weight_parts(const AttentionRelation<T>& a) {
  const int64_t tiles = (a.pairs.num_query * a.pairs.num_neighbors + kPairs - 1) / kPairs;
  const int64_t blocks =
      ((a.out_channels + kEdge - 1) / kEdge) * ((a.pairs.channels + kEdge - 1) / kEdge);
  return std::clamp<int64_t>(std::min(tiles / 4, kMaxParts / blocks), 1, 512);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    weights_kernel(AttentionRelation<T> r, const T* grad_out, int64_t parts, T* sums) {
  __shared__ T grads[kPairs][kEdge], rows[kPairs][kEdge];
  const AttentionPairs<T>& a = r.pairs;
  const int row = static_cast<int>(threadIdx.x) / 16 * 4, column = static_cast<int>(threadIdx.x) % 16 * 4;
  const int64_t first_out = int64_t{blockIdx.y} * kEdge, first = int64_t{blockIdx.z} * kEdge;
  const int64_t count = a.num_query * a.num_neighbors, tiles = (count + kPairs - 1) / kPairs;
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    T sum[4][4] = {}, bias_sum = 0;
    for (int64_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; ++tile) {
      for (int i = threadIdx.x; i < kPairs * kEdge; i += kThreads) {
        const int64_t e = tile * kPairs + i / kEdge, j = e < count ? neighbor(a, e) : -1;
        const int64_t o = first_out + i % kEdge, c = first + i % kEdge;
        grads[i / kEdge][i % kEdge] = j >= 0 && o < r.out_channels ? grad_out[e * r.out_channels + o] : T(0);
        const T z = j >= 0 && c < a.channels ? normed(r, difference(a, e, e / a.num_neighbors, j, c), c) : T(0);
        rows[i / kEdge][i % kEdge] = z <= 0 ? T(0) : z;
      }
      __syncthreads();
      for (int p = 0; p < kPairs; ++p) {
        if (first == 0 && threadIdx.x < kEdge) bias_sum += grads[p][threadIdx.x];
        if (first_out + row >= r.out_channels) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] = fma(grads[p][row + i], rows[p][column + j], sum[i][j]);
      }
      __syncthreads();
    }
    T* to = sums + part * r.out_channels * (a.channels + 1);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (first_out + row + i < r.out_channels && first + column + j < a.channels)
          to[(first_out + row + i) * a.channels + first + column + j] = sum[i][j];
    if (first == 0 && threadIdx.x < kEdge && first_out + threadIdx.x < r.out_channels)
      to[r.out_channels * a.channels + first_out + threadIdx.x] = bias_sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    join_weights_kernel(const T* sums, int64_t parts, int64_t weights, int64_t biases, T* weight, T* bias) {
  for (int64_t i = thread_in_grid(); i < weights + biases; i += threads_in_grid()) {
    T sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += sums[part * (weights + biases) + i];
    (i < weights ? weight[i] : bias[i - weights]) = sum;
  }
}

template <class T>
struct Workspace {
  PairWorkspace<T> pairs;
  int64_t parts;
  T* weights;

  Workspace(Arena& arena, const AttentionRelation<T>& a)
      : pairs(arena, a.pairs, true),
        parts(num_weight_parts(a)),
        weights(arena.take<T>(parts * a.out_channels * (a.pairs.channels + 1))) {}
};

}  // namespace
}  // namespace cuda

template <class T>
void attention_relation_cuda(const AttentionRelation<T>& a, T* out, void* stream) {
  const int64_t pairs = a.pairs.num_query * a.pairs.num_neighbors;
  if (pairs == 0) return;
  const dim3 blocks(cuda::blocks_for(pairs, cuda::kPairs), cuda::blocks_for(a.out_channels, 32));
  cuda::launch("attention_relation", cuda::relation_kernel<T>, blocks, cuda::kThreads, 0, stream, a, out);
}

template <class T>
size_t attention_relation_backward_workspace_bytes(const AttentionRelation<T>& a) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace<T> counted(arena, a);
  return arena.used();
}

template <class T>
void attention_relation_backward_cuda(const AttentionRelation<T>& a, const AttentionRelationGradients<T>& g,
                                      void* workspace, void* stream) {
  using namespace cuda;
  constexpr auto what = "attention_relation_backward";
  Arena arena(workspace);
  const Workspace<T> w(arena, a);
  const RowLists lists = pairs_by_key(what, a.pairs, w.pairs, stream);
  pair_gradients(what, a.pairs, RelationGradient<T>{a, g.grad_out}, lists, T(-1), g.pairs, g.scale, g.shift,
                 w.pairs.sums, stream);
  const dim3 blocks(static_cast<unsigned>(w.parts), blocks_for(a.out_channels, kEdge),
                    blocks_for(a.pairs.channels, kEdge));
  launch(what, weights_kernel<T>, blocks, kThreads, 0, stream, a, g.grad_out, w.parts, w.weights);
  const int64_t weights = a.out_channels * a.pairs.channels;
  launch(what, join_weights_kernel<T>, blocks_for(weights + a.out_channels, kThreads), kThreads, 0, stream, w.weights,
         w.parts, weights, a.out_channels, g.weight, g.bias);
}

#define PCSEG_INSTANTIATE(T)                                                                                          \
  template void attention_relation_cuda(const AttentionRelation<T>& a, T* out, void* stream);                         \
  template size_t attention_relation_backward_workspace_bytes(const AttentionRelation<T>& a);                         \
  template void attention_relation_backward_cuda(const AttentionRelation<T>& a, const AttentionRelationGradients<T>& g, \
                                                 void* workspace, void* stream);
PCSEG_INSTANTIATE(float)
PCSEG_INSTANTIATE(double)
#undef PCSEG_INSTANTIATE

}  // namespace pcseg
