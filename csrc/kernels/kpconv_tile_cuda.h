// What the kernels of kpconv.cu and kpconv_backward.cu share: who collects from whom, the influences of a list of
// neighbours on one warp, and the small matrix product that ends a tile.
//
// The convolution and the gradient of its features are one walk in two directions: queries collect from their
// neighbours, or supports collect from the queries that list them. "Owner" is the one that collects.
#pragma once

#include <cassert>

#include "cuda_launch.h"
#include "kpconv_cuda.h"
#include "kpconv_influence.h"
#include "row_lists.h"

namespace pcseg::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kOwners = 16;        // of a tile
constexpr int kKernelPoints = 15;  // whose sums a block holds at a time; half a warp finds a neighbour's influences
constexpr int kHalf = kWarp / 2;
// Channels that a lane holds, so that a tile's sums (kOwners x kKernelPoints x 32 lanes) take 60 KB in both precisions:
// the most that every GPU since sm_75 can give a block.
template <class T>
constexpr int kPerLane = sizeof(T) == 4 ? 2 : 1;
template <class T>
constexpr int kChannels = kWarp* kPerLane<T>;

template <class T>
struct Walk {
  KpConv<T> a;
  bool transposed;  // supports are the owners, and lists.entry / num_neighbors the queries that they collect from
  RowLists lists;

  __device__ int64_t owners() const { return transposed ? a.num_support : a.num_query; }
  __device__ int64_t length(int64_t owner) const {
    return transposed ? lists.first[owner + 1] - lists.first[owner] : a.num_neighbors;
  }
};

// One place of an owner's list: the query, the row collected from, and support - query.
template <class T>
struct Pair {
  int32_t query, other;
  T y[3];
  bool exists;
};

template <class T>
__device__ Pair<T> pair_at(const Walk<T>& walk, int64_t owner, int64_t place) {
  const KpConv<T>& a = walk.a;
  Pair<T> pair{0, 0, {}, false};
  if (place >= walk.length(owner)) return pair;
  int64_t query = owner, support = owner;
  if (walk.transposed) {
    query = walk.lists.entry[walk.lists.first[owner] + place] / a.num_neighbors;
  } else {
    support = a.neighbors[owner * a.num_neighbors + place];
    assert(0 <= support && support <= a.num_support);
    if (support == a.num_support) return pair;
  }
  pair.query = static_cast<int32_t>(query);
  pair.other = static_cast<int32_t>(walk.transposed ? query : support);
  pair.exists = true;
#pragma unroll
  for (int d = 0; d < 3; ++d)
    if (d < a.dim) pair.y[d] = a.support[support * a.dim + d] - a.query[query * a.dim + d];
  return pair;
}

template <class T>
__device__ Pair<T> from_lane(const Pair<T>& pair, int lane) {
  Pair<T> other;
  other.query = __shfl_sync(kAllLanes, pair.query, lane);
  other.other = __shfl_sync(kAllLanes, pair.other, lane);
#pragma unroll
  for (int d = 0; d < 3; ++d) other.y[d] = __shfl_sync(kAllLanes, pair.y[d], lane);
  other.exists = __shfl_sync(kAllLanes, static_cast<int>(pair.exists), lane) != 0;
  return other;
}

// From kernel point k (deformed by its query) to the pair's neighbour.
template <class T>
__device__ void difference_to(const KpConv<T>& a, const Pair<T>& pair, int64_t k, T (&difference)[3], T& sq_dist) {
  sq_dist = 0;
#pragma unroll
  for (int d = 0; d < 3; ++d) {
    difference[d] = 0;
    if (d >= a.dim) continue;
    T point = a.kernel_points[k * a.dim + d];
    if (a.kernel_offsets) point += a.kernel_offsets[(pair.query * a.kernel_size + k) * a.dim + d];
    difference[d] = pair.y[d] - point;
    sq_dist = fma(difference[d], difference[d], sq_dist);
  }
}

// Calls f(pair, k, lanes, difference, sq_dist, influence) for the owner's list, two neighbours at a time: lane l's are
// those of neighbour l / 16 and kernel point first_k + l % 16. `lanes` has a bit for each influence that is not 0.
// All lanes take part in every call.
template <class T, class F>
__device__ void for_pairs(const Walk<T>& walk, int64_t owner, int first_k, int num_k, F&& f) {
  const int64_t length = walk.length(owner);
  const int half = lane_id() / kHalf, k = lane_id() % kHalf;
  for (int64_t base = 0; base < length; base += kWarp) {
    const Pair<T> mine = pair_at(walk, owner, base + lane_id());
    const int count = static_cast<int>(min(length - base, int64_t{kWarp}));
    for (int place = 0; place < count; place += 2) {
      const Pair<T> pair = from_lane(mine, place + half);
      T difference[3] = {}, sq_dist = 0, influence = 0;
      if (pair.exists && k < num_k) {
        difference_to(walk.a, pair, first_k + k, difference, sq_dist);
        influence = kpconv_influence(sq_dist, walk.a.sigma);
      }
      const unsigned lanes = __ballot_sync(kAllLanes, influence != 0);
      if (lanes != 0) f(pair, k, lanes, difference, sq_dist, influence);
    }
  }
}

// Four numbers that are loaded at once where they lie on 16 bytes.
template <class T>
struct alignas(16) Four {
  T v[4];
};

template <class T>
__device__ Four<T> load_four(const T* from, int64_t left, bool aligned) {
  if (aligned && left >= 4) return *reinterpret_cast<const Four<T>*>(from);
  Four<T> four{};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < left) four.v[i] = from[i];
  return four;
}

// A warp's share of a product of kOwners rows: lane l has rows l / 8 * 4 + i and, of each 32 columns, l % 8 * 4 + j.
template <class T>
struct Product {
  static constexpr int kColumns = kChannels<T>;
  T sum[4][4 * kPerLane<T>] = {};

  static __device__ int row(int i) { return lane_id() / 8 * 4 + i; }
  static __device__ int column(int j) { return j / 4 * kWarp + lane_id() % 8 * 4 + j % 4; }

  // Adds rows[row][0 .. depth - 1] @ matrix[0 .. depth - 1][columns]. The rows lie on 16 bytes and hold zeros from
  // depth to the next multiple of 4; `columns` of the matrix exist from its pointer on.
  __device__ void add(const T* rows, int row_stride, const T* matrix, int64_t matrix_stride, int depth, int64_t columns,
                      bool aligned) {
    for (int base = 0; base < depth; base += 4) {
      Four<T> left[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = *reinterpret_cast<const Four<T>*>(rows + row(i) * row_stride + base);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if (base + step >= depth) break;
#pragma unroll
        for (int part = 0; part < kPerLane<T>; ++part) {
          const int first = column(part * 4);
          const Four<T> right = load_four(matrix + (base + step) * matrix_stride + first, columns - first, aligned);
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
              sum[i][part * 4 + j] = fma(left[i].v[step], right.v[j], sum[i][part * 4 + j]);
        }
      }
    }
  }
};

// Whether every row of a matrix can be read in fours: checked once, on the host.
template <class T>
bool rows_aligned(const T* matrix, int64_t columns) {
  return columns % 4 == 0 && reinterpret_cast<uintptr_t>(matrix) % 16 == 0;
}

// out[owner] = sum over its pairs and kernel points of influence * modulation * rows[other] @ matrix[k].
// rows (., in), matrix (kernel_size, in, columns), out (owners, columns).
template <class T>
struct Convolution {
  Walk<T> walk;
  const T* rows;
  const T* matrix;
  T* out;
  int64_t in;
  int64_t columns;
  bool aligned;
};

// A block a tile of owners and kColumns columns. Its sums (kOwners, num_k, kChannels) live in shared memory: each warp
// collects those of two owners, then all share the product by kernel points and add up what they have.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) convolve_kernel(Convolution<T> c) {
  constexpr int kColumns = Product<T>::kColumns;
  T* shared = dynamic_shared<T>();
  const KpConv<T>& a = c.walk.a;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
  const int64_t first_column = int64_t{blockIdx.y} * kColumns, owners = c.walk.owners();
  for (int64_t tile = blockIdx.x; tile * kOwners < owners; tile += gridDim.x) {
    Product<T> product;
    for (int first_k = 0; first_k < a.kernel_size; first_k += kKernelPoints) {
      const int num_k = static_cast<int>(min(a.kernel_size - first_k, int64_t{kKernelPoints}));
      for (int64_t channel = 0; channel < c.in; channel += kChannels<T>) {
        for (int p = warp; p < kOwners; p += kWarps) {
          T* sums = shared + p * num_k * kChannels<T>;
          for (int i = lane; i < num_k * kChannels<T>; i += kWarp) sums[i] = 0;
          __syncwarp();
          const int64_t owner = tile * kOwners + p;
          if (owner >= owners) continue;
          for_pairs(c.walk, owner, first_k, num_k,
                    [&](const Pair<T>& pair, int k, unsigned lanes, const T(&)[3], T, T influence) {
            if (a.modulations && influence != 0) influence *= a.modulations[pair.query * a.kernel_size + first_k + k];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              unsigned waiting = lanes >> (half * kHalf) & 0xffffu;
              if (waiting == 0) continue;
              const int64_t row = __shfl_sync(kAllLanes, pair.other, half * kHalf);
              T value[kPerLane<T>];
#pragma unroll
              for (int i = 0; i < kPerLane<T>; ++i) {
                const int64_t at = channel + lane + i * kWarp;
                value[i] = at < c.in ? c.rows[row * c.in + at] : T(0);
              }
              for (; waiting != 0; waiting &= waiting - 1) {
                const int point = __ffs(waiting) - 1;
                const T factor = __shfl_sync(kAllLanes, influence, half * kHalf + point);
#pragma unroll
                for (int i = 0; i < kPerLane<T>; ++i) {
                  T& sum = sums[point * kChannels<T> + lane + i * kWarp];
                  sum = fma(factor, value[i], sum);
                }
              }
            }
          });
        }
        __syncthreads();
        const int depth = static_cast<int>(min(c.in - channel, int64_t{kChannels<T>}));
        for (int k = warp; k < num_k; k += kWarps)
          product.add(shared + k * kChannels<T>, num_k * kChannels<T>,
                      c.matrix + ((first_k + k) * c.in + channel) * c.columns + first_column, c.columns, depth,
                      c.columns - first_column, c.aligned);
        __syncthreads();
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4 * kPerLane<T>; ++j)
        shared[(warp * kOwners + product.row(i)) * kColumns + product.column(j)] = product.sum[i][j];
    __syncthreads();
    for (int i = threadIdx.x; i < kOwners * kColumns; i += kThreads) {
      const int64_t owner = tile * kOwners + i / kColumns, column = first_column + i % kColumns;
      T sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += shared[w * kOwners * kColumns + i];
      if (owner < owners && column < c.columns) c.out[owner * c.columns + column] = sum;
    }
    __syncthreads();
  }
}

template <class T>
void convolve(const char* what, const Convolution<T>& c, int64_t owners, void* stream) {
  if (owners == 0 || c.columns == 0) return;
  const int64_t num_k = std::min<int64_t>(c.walk.a.kernel_size, kKernelPoints);
  const int64_t numbers = std::max<int64_t>(kOwners * num_k * kChannels<T>, kWarps * kOwners * kChannels<T>);
  const dim3 blocks(blocks_for(owners, kOwners), blocks_for(c.columns, kChannels<T>));
  launch(what, convolve_kernel<T>, blocks, kThreads, static_cast<size_t>(numbers) * sizeof(T), stream, c);
}

}  // namespace
}  // namespace pcseg::cuda
