#include <cassert>
#include <limits>

#include "cuda_launch.h"
#include "voxel_features_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;

struct Points {
  int64_t begin, end;
};

template <class C, class F>
__device__ Points points_of(const VoxelFeatures<C, F>& a, int64_t voxel) {
  const Points points{a.point_offsets[voxel], a.point_offsets[voxel + 1]};
  assert(0 <= points.begin && points.begin <= points.end && points.end <= a.num_points);
  return points;
}

template <class C, class F>
__device__ int64_t row_of(const VoxelFeatures<C, F>& a, int64_t place) {
  const int64_t row = a.order[place];
  assert(0 <= row && row < a.num_points);
  return row;
}

// One thread a voxel and axis.
template <class C, class F>
__global__ void __launch_bounds__(kThreads) barycentre_kernel(VoxelFeatures<C, F> a) {
  for (int64_t i = thread_in_grid(); i < a.num_voxels * a.dims; i += threads_in_grid()) {
    const int64_t d = i % a.dims;
    const Points points = points_of(a, i / a.dims);
    double sum = 0;
    for (int64_t p = points.begin; p < points.end; ++p) sum += static_cast<double>(a.coords[row_of(a, p) * a.dims + d]);
    a.out_coords[i] = static_cast<C>(sum / static_cast<double>(max(points.end - points.begin, int64_t{1})));
  }
}

// One thread a voxel and channel.
template <class C, class F>
__global__ void __launch_bounds__(kThreads) mean_kernel(VoxelFeatures<C, F> a) {
  for (int64_t i = thread_in_grid(); i < a.num_voxels * a.channels; i += threads_in_grid()) {
    const int64_t c = i % a.channels;
    const Points points = points_of(a, i / a.channels);
    F sum = 0;
    for (int64_t p = points.begin; p < points.end; ++p) sum += a.feats[row_of(a, p) * a.channels + c];
    a.out_feats[i] = sum / static_cast<F>(max(points.end - points.begin, int64_t{1}));
  }
}

// One warp a voxel: counts its labels from the lowest up, one walk over the points for each that occurs, and stops when
// those left cannot win.
template <class C, class F>
__global__ void __launch_bounds__(kThreads) majority_kernel(VoxelFeatures<C, F> a) {
  for (int64_t v = thread_in_grid() / kWarp; v < a.num_voxels; v += threads_in_grid() / kWarp) {
    const Points points = points_of(a, v);
    int64_t counted = -1, best = -1;
    int64_t most = 0;
    while (true) {
      int64_t lowest = std::numeric_limits<int64_t>::max(), count = 0, left = 0;
      for (int64_t p = points.begin + lane_id(); p < points.end; p += kWarp) {
        const int64_t label = a.labels[row_of(a, p)];
        assert(label >= -1);
        if (label <= counted) continue;
        ++left;
        count = label < lowest ? 1 : count + (label == lowest);
        lowest = min(lowest, label);
      }
      counted = warp_min(lowest);
      count = warp_sum(lowest == counted ? count : int64_t{0});
      left = warp_sum(left) - count;
      if (count > most) {
        most = count;
        best = counted;
      }
      if (left <= most) break;
    }
    if (lane_id() == 0) a.out_labels[v] = best;
  }
}

}  // namespace
}  // namespace cuda

template <class C, class F>
void voxel_features_cuda(const VoxelFeatures<C, F>& a, void* stream) {
  using namespace cuda;
  constexpr auto what = "voxel_features";
  if (a.num_voxels == 0) return;
  if (a.dims > 0)
    launch(what, barycentre_kernel<C, F>, blocks_for(a.num_voxels * a.dims, kThreads), kThreads, 0, stream, a);
  if (a.feats && a.channels > 0)
    launch(what, mean_kernel<C, F>, blocks_for(a.num_voxels * a.channels, kThreads), kThreads, 0, stream, a);
  if (a.labels)
    launch(what, majority_kernel<C, F>, blocks_for(a.num_voxels * kWarp, kThreads), kThreads, 0, stream, a);
}
template void voxel_features_cuda(const VoxelFeatures<float, float>& a, void* stream);
template void voxel_features_cuda(const VoxelFeatures<float, double>& a, void* stream);
template void voxel_features_cuda(const VoxelFeatures<double, float>& a, void* stream);
template void voxel_features_cuda(const VoxelFeatures<double, double>& a, void* stream);

}  // namespace pcseg
