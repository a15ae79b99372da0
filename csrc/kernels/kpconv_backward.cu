#include "kpconv_tile_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

// out[k, j, i] = in[k, i, j]; in (slices, rows, columns).
template <class T>
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(const T* in, int64_t slices, int64_t rows, int64_t columns, T* out) {
  for (int64_t i = thread_in_grid(); i < slices * rows * columns; i += threads_in_grid()) {
    const int64_t row = i % rows, column = i / rows % columns, slice = i / rows / columns;
    out[i] = in[(slice * rows + row) * columns + column];
  }
}

// The support that each place of the neighbour lists names.
__global__ void __launch_bounds__(kThreads)
    support_kernel(const int64_t* neighbors, int64_t count, int64_t num_support, uint64_t* support) {
  for (int64_t i = thread_in_grid(); i < count; i += threads_in_grid()) {
    const int64_t j = neighbors[i];
    support[i] = static_cast<uint64_t>(0 <= j && j < num_support ? j : num_support);
  }
}

// The gradient of the weights, cut into parts of the queries whose number follows from the sizes alone:
//   part[k, c, o] = sum over the part's queries m of (sum over m's pairs of influence * modulation * feats[j, c])
//                   * grad_out[m, o].
constexpr int kEdge = 64;          // channels in and out that a block makes
constexpr int kQueries = 32;       // of a tile
constexpr int64_t kBlocks = 1024;  // that keep the largest GPU busy

template <class T>
struct WeightParts {
  Walk<T> walk;
  const T* grad_out;
  T* parts;  // (num_parts, kernel_size, in_channels, out_channels)
  int64_t num_parts;
};

inline int64_t tiles_of(int64_t channels) { return (channels + kEdge - 1) / kEdge; }

template <class T>
int64_t num_weight_parts(const KpConv<T>& a) {
  const int64_t blocks = a.kernel_size * tiles_of(a.in_channels) * tiles_of(a.out_channels);
  const int64_t tiles = (a.num_query + kQueries - 1) / kQueries;
  return std::max<int64_t>(1, std::min({(kBlocks + blocks - 1) / blocks, tiles, int64_t{64}}));
}

// blockIdx.x: kernel point, then part; blockIdx.y, z: tiles of the channels in and out.
template <class T>
__global__ void __launch_bounds__(kThreads) weights_kernel(WeightParts<T> w) {
  __shared__ T sums[kQueries][kEdge];
  __shared__ T grads[kQueries][kEdge];
  const KpConv<T>& a = w.walk.a;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
  const int row = static_cast<int>(threadIdx.x) / 16 * 4, column = static_cast<int>(threadIdx.x) % 16 * 4;
  const int64_t first_in = int64_t{blockIdx.y} * kEdge, first_out = int64_t{blockIdx.z} * kEdge;
  const int64_t tiles = (a.num_query + kQueries - 1) / kQueries;
  for (int64_t task = blockIdx.x; task < a.kernel_size * w.num_parts; task += gridDim.x) {
    const int64_t k = task % a.kernel_size, part = task / a.kernel_size;
    T sum[4][4] = {};
    for (int64_t tile = tiles * part / w.num_parts; tile < tiles * (part + 1) / w.num_parts; ++tile) {
      for (int p = warp; p < kQueries; p += kWarps) {
        const int64_t query = tile * kQueries + p;
        T collected[2] = {};
        for (int64_t base = 0; query < a.num_query && base < a.num_neighbors; base += kWarp) {
          const Pair<T> pair = pair_at(w.walk, query, base + lane);
          T difference[3], sq_dist, influence = 0;
          if (pair.exists) {
            difference_to(a, pair, k, difference, sq_dist);
            influence = kpconv_influence(sq_dist, a.sigma);
          }
          for (unsigned waiting = __ballot_sync(kAllLanes, influence != 0); waiting != 0; waiting &= waiting - 1) {
            const int from = __ffs(waiting) - 1;
            const T factor = __shfl_sync(kAllLanes, influence, from);
            const T* feats = a.feats + __shfl_sync(kAllLanes, pair.other, from) * a.in_channels + first_in;
#pragma unroll
            for (int i = 0; i < 2; ++i)
              if (first_in + lane + i * kWarp < a.in_channels)
                collected[i] = fma(factor, feats[lane + i * kWarp], collected[i]);
          }
        }
        const T modulation =
            a.modulations && query < a.num_query ? a.modulations[query * a.kernel_size + k] : T(1);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int64_t out = first_out + lane + i * kWarp;
          sums[p][lane + i * kWarp] = modulation * collected[i];
          grads[p][lane + i * kWarp] =
              query < a.num_query && out < a.out_channels ? w.grad_out[query * a.out_channels + out] : T(0);
        }
      }
      __syncthreads();
      for (int p = 0; p < kQueries; ++p)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] = fma(sums[p][row + i], grads[p][column + j], sum[i][j]);
      __syncthreads();
    }
    T* to = w.parts + (part * a.kernel_size + k) * a.in_channels * a.out_channels;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j)
        if (first_in + row + i < a.in_channels && first_out + column + j < a.out_channels)
          to[(first_in + row + i) * a.out_channels + first_out + column + j] = sum[i][j];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) join_kernel(const T* parts, int64_t num_parts, int64_t count, T* out) {
  for (int64_t i = thread_in_grid(); i < count; i += threads_in_grid()) {
    T sum = 0;
    for (int64_t part = 0; part < num_parts; ++part) sum += parts[part * count + i];
    out[i] = sum;
  }
}

// Gradients of kernel_offsets and modulations. With P[m, k] = weights[k] grad_out[m], a pair adds to its query's
//   modulations'[m, k] += influence <P, feats[j]>
//   kernel_offsets'[m, k] += modulation <P, feats[j]> slope * difference.
template <class T>
struct KernelGradients {
  Walk<T> walk;
  KpConvGradients<T> g;
  const T* transposed;  // (kernel_size, out_channels, in_channels)
  bool aligned;
};

// A block a tile of queries: P for kKernelPoints kernel points and kChannels channels in shared memory, behind it the
// tile's rows of grad_out, kChannels at a time. Each warp then walks the pairs of its queries.
template <class T>
__global__ void __launch_bounds__(kThreads) kernel_gradients_kernel(KernelGradients<T> w) {
  const KpConv<T>& a = w.walk.a;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
  const int max_k = static_cast<int>(min(a.kernel_size, int64_t{kKernelPoints}));
  T* projected = dynamic_shared<T>();
  __shared__ __align__(16) T grads[kOwners * kWarp];
  for (int64_t tile = blockIdx.x; tile * kOwners < a.num_query; tile += gridDim.x)
    for (int first_k = 0; first_k < a.kernel_size; first_k += max_k) {
      const int num_k = static_cast<int>(min(a.kernel_size - first_k, int64_t{max_k}));
      for (int64_t channel = 0; channel < a.in_channels; channel += kChannels<T>) {
        Product<T> product[2];  // of kernel points warp and warp + kWarps
        for (int64_t out = 0; out < a.out_channels; out += kWarp) {
          for (int i = threadIdx.x; i < kOwners * kWarp; i += kThreads) {
            const int64_t query = tile * kOwners + i / kWarp, o = out + i % kWarp;
            grads[i] = query < a.num_query && o < a.out_channels ? w.g.grad_out[query * a.out_channels + o] : T(0);
          }
          __syncthreads();
          const int depth = static_cast<int>(min(a.out_channels - out, int64_t{kWarp}));
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int k = warp + i * kWarps;
            if (k < num_k)
              product[i].add(grads, kWarp,
                             w.transposed + ((first_k + k) * a.out_channels + out) * a.in_channels + channel,
                             a.in_channels, depth, a.in_channels - channel, w.aligned);
          }
          __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int k = warp + i * kWarps;
          if (k >= num_k) continue;
#pragma unroll
          for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int j = 0; j < 4 * kPerLane<T>; ++j)
              projected[(product[i].row(r) * num_k + k) * kChannels<T> + product[i].column(j)] = product[i].sum[r][j];
        }
        __syncthreads();
        for (int p = warp; p < kOwners; p += kWarps) {
          const int64_t query = tile * kOwners + p;
          if (query >= a.num_query) continue;
          const T* of_query = projected + p * num_k * kChannels<T>;
          T modulation = 0, offset[3] = {};  // this lane's half of the pairs of kernel point first_k + lane % 16
          for_pairs(w.walk, query, first_k, num_k,
                    [&](const Pair<T>& pair, int, unsigned lanes, const T(&difference)[3], T sq_dist, T influence) {
            for (; lanes != 0; lanes &= lanes - 1) {
              const int from = __ffs(lanes) - 1;
              const int64_t row = __shfl_sync(kAllLanes, pair.other, from);
              T dot = 0;
#pragma unroll
              for (int i = 0; i < kPerLane<T>; ++i) {
                const int64_t at = channel + lane + i * kWarp;
                if (at < a.in_channels)
                  dot = fma(of_query[from % kHalf * kChannels<T> + lane + i * kWarp], a.feats[row * a.in_channels + at],
                            dot);
              }
              dot = warp_sum(dot);
              if (lane != from) continue;
              modulation = fma(dot, influence, modulation);
              const T slope = dot * kpconv_influence_slope(sq_dist, a.sigma);
#pragma unroll
              for (int d = 0; d < 3; ++d) offset[d] = fma(slope, difference[d], offset[d]);
            }
          });
          modulation += shuffle_xor(modulation, kHalf);
#pragma unroll
          for (int d = 0; d < 3; ++d) offset[d] += shuffle_xor(offset[d], kHalf);
          if (lane >= num_k) continue;
          const int64_t at = query * a.kernel_size + first_k + lane;
          if (w.g.modulations) w.g.modulations[at] = (channel > 0 ? w.g.modulations[at] : T(0)) + modulation;
          if (w.g.kernel_offsets) {
            const T factor = a.modulations ? a.modulations[at] : T(1);
            for (int d = 0; d < a.dim; ++d) {
              T& to = w.g.kernel_offsets[at * a.dim + d];
              to = (channel > 0 ? to : T(0)) + factor * offset[d];
            }
          }
        }
        __syncthreads();
      }
    }
}

template <class T>
struct Workspace {
  T* transposed;
  T* parts;
  uint64_t* support;
  unsigned char* lists;

  Workspace(Arena& arena, const KpConv<T>& a, const KpConvGradients<T>& g) {
    const int64_t weights = a.kernel_size * a.in_channels * a.out_channels, entries = a.num_query * a.num_neighbors;
    const int64_t num_parts = num_weight_parts(a);
    transposed = arena.take<T>(g.feats || g.kernel_offsets || g.modulations ? weights : 0);
    parts = arena.take<T>(g.weights && num_parts > 1 ? num_parts * weights : 0);
    support = arena.take<uint64_t>(g.feats ? entries : 0);
    lists = arena.take<unsigned char>(
        g.feats ? static_cast<int64_t>(row_lists_bytes(entries, a.num_support)) : 0);
  }
};

template <class T>
void run_backward(const KpConv<T>& a, const KpConvGradients<T>& g, void* workspace, void* stream) {
  constexpr auto what = "kpconv_backward";
  Arena arena(workspace);
  const Workspace<T> w(arena, a, g);
  const Walk<T> by_query{a, false, {}};
  const int64_t weights = a.kernel_size * a.in_channels * a.out_channels, entries = a.num_query * a.num_neighbors;
  if (weights > 0 && (g.feats || g.kernel_offsets || g.modulations))
    launch(what, transpose_kernel<T>, blocks_for(weights, kThreads), kThreads, 0, stream, a.weights, a.kernel_size,
           a.in_channels, a.out_channels, w.transposed);
  if (g.feats && a.num_support > 0) {
    if (entries > 0)
      launch(what, support_kernel, blocks_for(entries, kThreads), kThreads, 0, stream, a.neighbors, entries,
             a.num_support, w.support);
    const RowLists lists = group_by_row(w.support, entries, a.num_support, w.lists, stream);
    const Convolution<T> c{.walk = {a, true, lists},
                           .rows = g.grad_out,
                           .matrix = w.transposed,
                           .out = g.feats,
                           .in = a.out_channels,
                           .columns = a.in_channels,
                           .aligned = rows_aligned(w.transposed, a.in_channels)};
    convolve(what, c, a.num_support, stream);
  }
  if (g.weights && weights > 0) {
    const int64_t num_parts = num_weight_parts(a);
    T* parts = num_parts > 1 ? w.parts : g.weights;
    const dim3 blocks(blocks_for(a.kernel_size * num_parts, 1), blocks_for(a.in_channels, kEdge),
                      blocks_for(a.out_channels, kEdge));
    launch(what, weights_kernel<T>, blocks, kThreads, 0, stream,
           WeightParts<T>{by_query, g.grad_out, parts, num_parts});
    if (num_parts > 1)
      launch(what, join_kernel<T>, blocks_for(weights, kThreads), kThreads, 0, stream, parts, num_parts, weights,
             g.weights);
  }
  if ((g.kernel_offsets || g.modulations) && a.num_query > 0) {
    const int64_t numbers = kOwners * std::min<int64_t>(a.kernel_size, kKernelPoints) * kChannels<T>;
    launch(what, kernel_gradients_kernel<T>, blocks_for(a.num_query, kOwners), kThreads,
           static_cast<size_t>(numbers) * sizeof(T), stream,
           KernelGradients<T>{by_query, g, w.transposed, rows_aligned(w.transposed, a.in_channels)});
  }
}

}  // namespace
}  // namespace cuda

template <class T>
size_t kpconv_backward_workspace_bytes(const KpConv<T>& a, const KpConvGradients<T>& g) {
  cuda::Arena arena(nullptr);
  const cuda::Workspace<T> counted(arena, a, g);
  return arena.used();
}
template size_t kpconv_backward_workspace_bytes(const KpConv<float>& a, const KpConvGradients<float>& g);
template size_t kpconv_backward_workspace_bytes(const KpConv<double>& a, const KpConvGradients<double>& g);

void kpconv_backward_cuda(const KpConv<float>& a, const KpConvGradients<float>& g, void* workspace, void* stream) {
  cuda::run_backward(a, g, workspace, stream);
}
void kpconv_backward_cuda(const KpConv<double>& a, const KpConvGradients<double>& g, void* workspace, void* stream) {
  cuda::run_backward(a, g, workspace, stream);
}

}  // namespace pcseg
