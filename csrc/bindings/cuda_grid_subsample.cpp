#include <limits>
#include <string>

#include "../kernels/grid_subsample_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

constexpr auto op = "grid_subsample";
using GridTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class T>
GridTensors run(const Tensor& coords, double voxel_size, const Tensor& offsets) {
  const OnDevice device(coords);
  const int64_t points = coords.size(0), clouds = offsets.size(0) - 1;
  Tensor voxel_of_point = empty_like_device(coords, {points}, ScalarType::Long);
  const GridVoxels<T> voxels{.coords = data<T>(coords),
                             .offsets = data<int64_t>(offsets),
                             .voxel_of_point = mutable_data<int64_t>(voxel_of_point),
                             .num_points = points,
                             .num_clouds = clouds,
                             .dims = static_cast<int>(coords.size(1)),
                             .voxel_size = static_cast<T>(voxel_size)};
  Tensor memory = workspace(coords, grid_subsample_workspace_bytes(voxels));
  const int64_t count = grid_voxels_cuda(voxels, memory.data_ptr(), device.stream());
  expect(count >= 0, op,
         ("row " + std::to_string(-1 - count) +
          " of coords is not finite, or its cell floor(coord / voxel_size) is beyond +-2^31: recentre or drop it")
             .c_str());

  Tensor order = empty_like_device(coords, {points}, ScalarType::Long);
  Tensor point_offsets = empty_like_device(coords, {count + 1}, ScalarType::Long);
  Tensor voxel_offsets = empty_like_device(coords, {clouds + 1}, ScalarType::Long);
  grid_order_cuda({.voxel_of_point = data<int64_t>(voxel_of_point),
                   .offsets = data<int64_t>(offsets),
                   .order = mutable_data<int64_t>(order),
                   .point_offsets = mutable_data<int64_t>(point_offsets),
                   .voxel_offsets = mutable_data<int64_t>(voxel_offsets),
                   .num_points = points,
                   .num_voxels = count,
                   .num_clouds = clouds},
                  memory.data_ptr(), device.stream());
  return {voxel_of_point, order, point_offsets, voxel_offsets};
}

GridTensors grid_subsample(Tensor coords, double voxel_size, Tensor offsets) {
  coords = torch::stable::contiguous(coords);
  offsets = torch::stable::contiguous(offsets);
  expect(coords.dim() == 2 && coords.size(1) >= 1 && coords.size(1) <= max_grid_dims, op, "coords must be (N, 1 to 8)");
  expect(coords.size(0) < std::numeric_limits<int32_t>::max(), op, "at most 2^31 - 2 points in one call");
  expect_float(coords, op, "coords must be float32 or float64");
  expect(offsets.dim() == 1 && offsets.size(0) >= 1 && offsets.scalar_type() == ScalarType::Long, op,
         "offsets must be (B + 1,) int64");
  return coords.scalar_type() == ScalarType::Float ? run<float>(coords, voxel_size, offsets)
                                                   : run<double>(coords, voxel_size, offsets);
}

PCSEG_CUDA_IMPL(m) { m.impl("grid_subsample", TORCH_BOX(&grid_subsample)); }

}  // namespace
}  // namespace pcseg::bindings
