#include <cassert>
#include <limits>

#include "cuda_launch.h"
#include "farthest_point_sample_cuda.h"
#include "point_tree.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kTile = 2048;            // buckets tested before those found are visited
constexpr int64_t kBucketsPerWarp = 4;  // at least, on average: small clouds get small blocks

// A row and its squared distance to the samples: farther first, then the lower row.
template <class T>
struct Far {
  T sq_dist;
  int32_t row;
};

template <class T>
__device__ Far<T> nothing() {
  return {T(-2), std::numeric_limits<int32_t>::max()};  // chosen rows have -1
}

template <class T>
__device__ Far<T> farther(Far<T> a, Far<T> b) {
  return a.sq_dist > b.sq_dist || (a.sq_dist == b.sq_dist && a.row < b.row) ? a : b;
}

// The same result in every lane.
template <class T>
__device__ Far<T> warp_farthest(Far<T> far) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Far<T> other{shuffle_xor(far.sq_dist, step), shuffle_xor(far.row, step)};
    far = farther(far, other);
  }
  return far;
}

// 32 consecutive points of a cloud in curve order. Cloud b has its buckets from offsets[b] / 32 + b on.
template <class T, int Axes>
struct Buckets {
  T* sq_dist;  // (num_points) of each point to the samples
  T* low[Axes];
  T* high[Axes];
  T* far;  // of the farthest point
  int32_t* row;

  Buckets(Arena& arena, int64_t num_points, int64_t num_clouds) {
    const int64_t most = num_points / kWarp + num_clouds + 1;
    sq_dist = arena.take<T>(num_points);
    for (int d = 0; d < Axes; ++d) {
      low[d] = arena.take<T>(most);
      high[d] = arena.take<T>(most);
    }
    far = arena.take<T>(most);
    row = arena.take<int32_t>(most);
  }
};

template <class T, int Axes>
class CloudSampler {
 public:
  __device__ CloudSampler(const PointTree<T, Axes>& tree, const Buckets<T, Axes>& buckets, int64_t first, int64_t size,
                          int64_t cloud)
      : tree_(tree), buckets_(buckets), first_(first), last_(first + size), bucket_(first / kWarp + cloud) {}

  __device__ int64_t num_buckets() const { return (last_ - first_ + kWarp - 1) / kWarp; }

  // One warp: the bucket's box.
  __device__ void set_box(int64_t bucket) const {
    const int64_t at = first_ + bucket * kWarp + lane_id();
    for (int d = 0; d < Axes; ++d) {
      // Places beyond the cloud repeat a point that is in it.
      const T coord = tree_.coords[d][at < last_ ? at : last_ - 1];
      assert(coord - coord == 0);
      const T low = warp_min(coord), high = warp_max(coord);
      if (lane_id() != 0) continue;
      buckets_.low[d][bucket_ + bucket] = low;
      buckets_.high[d][bucket_ + bucket] = high;
    }
  }

  __device__ Far<T> farthest(int64_t bucket) const {
    return {buckets_.far[bucket_ + bucket], buckets_.row[bucket_ + bucket]};
  }

  // No point in the bucket is nearer to x, bit for bit.
  __device__ T sq_dist_to_box(int64_t bucket, const T (&x)[Axes]) const {
    T apart[Axes];
    for (int d = 0; d < Axes; ++d)
      apart[d] = outside(x[d], buckets_.low[d][bucket_ + bucket], buckets_.high[d][bucket_ + bucket]);
    return squared_norm(apart);
  }

  // One warp: brings the bucket up to date with the sample `row` at x; returns its farthest point in every lane.
  __device__ Far<T> add(int64_t bucket, int32_t row, const T (&x)[Axes], bool is_first) const {
    const int64_t at = first_ + bucket * kWarp + lane_id();
    Far<T> far = nothing<T>();
    if (at < last_) {
      T apart[Axes];
      for (int d = 0; d < Axes; ++d) apart[d] = tree_.coords[d][at] - x[d];
      far = {squared_norm(apart), tree_.row[at]};
      if (!is_first && buckets_.sq_dist[at] < far.sq_dist) far.sq_dist = buckets_.sq_dist[at];
      if (far.row == row) far.sq_dist = -1;
      buckets_.sq_dist[at] = far.sq_dist;
    }
    far = warp_farthest(far);
    if (lane_id() == 0) {
      buckets_.far[bucket_ + bucket] = far.sq_dist;
      buckets_.row[bucket_ + bucket] = far.row;
    }
    return far;
  }

 private:
  const PointTree<T, Axes>& tree_;
  const Buckets<T, Axes>& buckets_;
  int64_t first_, last_, bucket_;
};

template <class T, int Axes>
__global__ void __launch_bounds__(kMaxThreads)
    sample_kernel(FarthestPointSample<T> a, PointTree<T, Axes> tree, Buckets<T, Axes> buckets) {
  __shared__ int32_t listed[kTile];
  __shared__ int num_listed;
  __shared__ Far<T> far_of_warp[kMaxThreads / kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  for (int64_t cloud = blockIdx.x; cloud < a.num_clouds; cloud += gridDim.x) {
    const int64_t first = a.offsets[cloud], size = a.offsets[cloud + 1] - first;
    const int64_t first_sample = a.sample_offsets[cloud], count = a.sample_offsets[cloud + 1] - first_sample;
    assert(0 <= first && 0 <= size && first + size <= a.num_points);
    assert(0 <= count && count <= size && 0 <= first_sample && first_sample + count <= a.num_samples);
    if (count == 0) continue;
    assert(0 <= a.start[cloud] && a.start[cloud] < size);
    const CloudSampler<T, Axes> sampler(tree, buckets, first, size, cloud);
    for (int64_t bucket = warp; bucket < sampler.num_buckets(); bucket += warps) sampler.set_box(bucket);

    auto row = static_cast<int32_t>(first + a.start[cloud]);
    for (int64_t i = 0; i < count; ++i) {
      if (threadIdx.x == 0) a.samples[first_sample + i] = row;
      if (i + 1 == count) break;
      T x[Axes] = {};
      for (int d = 0; d < a.dim; ++d) x[d] = a.coords[row * a.dim + d];
      Far<T> far = nothing<T>();
      for (int64_t tile = 0; tile < sampler.num_buckets(); tile += kTile) {
        if (threadIdx.x == 0) num_listed = 0;
        __syncthreads();
        const int64_t end = min(tile + kTile, sampler.num_buckets());
        for (int64_t bucket = tile + threadIdx.x; bucket < end; bucket += blockDim.x) {
          if (i > 0) {
            const Far<T> known = sampler.farthest(bucket);
            if (known.row != row && !(sampler.sq_dist_to_box(bucket, x) < known.sq_dist)) {
              far = farther(far, known);
              continue;
            }
          }
          listed[atomicAdd(&num_listed, 1)] = static_cast<int32_t>(bucket);
        }
        __syncthreads();
        for (int at = warp; at < num_listed; at += warps) far = farther(far, sampler.add(listed[at], row, x, i == 0));
        __syncthreads();
      }
      far = warp_farthest(far);
      if (lane_id() == 0) far_of_warp[warp] = far;
      __syncthreads();
      row = warp_farthest(lane_id() < warps ? far_of_warp[lane_id()] : nothing<T>()).row;
      assert(first <= row && row < first + size);
    }
    __syncthreads();
  }
}

template <class T, int Axes>
size_t workspace_bytes(const FarthestPointSample<T>& a) {
  Arena arena(nullptr);
  const Buckets<T, Axes> counted(arena, a.num_points, a.num_clouds);
  arena.take<char>(static_cast<int64_t>(point_tree_bytes<T, Axes>(a.num_points)));
  return arena.used() + point_tree_workspace_bytes<T, Axes>(a.num_points, a.num_clouds, static_cast<int>(a.dim));
}

template <class T, int Axes>
void sample(const FarthestPointSample<T>& a, void* workspace, void* stream) {
  Arena arena(workspace);
  const Buckets<T, Axes> buckets(arena, a.num_points, a.num_clouds);
  void* memory = arena.take<char>(static_cast<int64_t>(point_tree_bytes<T, Axes>(a.num_points)));
  const PointTree<T, Axes> tree =
      build_point_tree<T, Axes>(a.coords, a.offsets, a.num_points, a.num_clouds, static_cast<int>(a.dim), memory,
                                arena.take<char>(0), stream);
  const int64_t warps = a.num_points / a.num_clouds / kWarp / kBucketsPerWarp;
  const int threads = static_cast<int>(std::clamp<int64_t>(warps, 1, kMaxThreads / kWarp)) * kWarp;
  launch("farthest_point_sample", sample_kernel<T, Axes>, blocks_for(a.num_clouds, 1), threads, 0, stream, a, tree,
         buckets);
}

template <class T>
void run(const FarthestPointSample<T>& a, void* workspace, void* stream) {
  if (a.num_samples == 0 || a.num_points == 0 || a.num_clouds == 0) return;
  if (a.dim <= 3)
    sample<T, 3>(a, workspace, stream);
  else
    sample<T, kMaxDim>(a, workspace, stream);
}

}  // namespace
}  // namespace cuda

template <class T>
size_t farthest_point_sample_workspace_bytes(const FarthestPointSample<T>& a) {
  return a.dim <= 3 ? cuda::workspace_bytes<T, 3>(a) : cuda::workspace_bytes<T, cuda::kMaxDim>(a);
}
template size_t farthest_point_sample_workspace_bytes(const FarthestPointSample<float>& a);
template size_t farthest_point_sample_workspace_bytes(const FarthestPointSample<double>& a);

void farthest_point_sample_cuda(const FarthestPointSample<float>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}
void farthest_point_sample_cuda(const FarthestPointSample<double>& a, void* workspace, void* stream) {
  cuda::run(a, workspace, stream);
}

int64_t farthest_point_sample_count_cuda(const int64_t* sample_offsets, int64_t num_clouds, void* stream) {
  constexpr auto what = "farthest_point_sample_count";
  int64_t count = 0;
  cuda::check(cudaMemcpyAsync(&count, sample_offsets + num_clouds, sizeof count, cudaMemcpyDeviceToHost,
                              cuda::stream_of(stream)),
              what);
  cuda::check(cudaStreamSynchronize(cuda::stream_of(stream)), what);
  return count;
}

}  // namespace pcseg
