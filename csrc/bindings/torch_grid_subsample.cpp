#include <string>

#include "../kernels/grid_subsample.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

using GridTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
constexpr auto op = "grid_subsample";

template <class T>
int64_t voxels(const Tensor& coords, double voxel_size, const Tensor& offsets, Tensor& voxel_of_point) {
  return run_grid_voxels<T>({.coords = data<T>(coords),
                             .offsets = data<int64_t>(offsets),
                             .voxel_of_point = mutable_data<int64_t>(voxel_of_point),
                             .num_points = coords.size(0),
                             .num_clouds = offsets.size(0) - 1,
                             .dims = static_cast<int>(coords.size(1)),
                             .voxel_size = static_cast<T>(voxel_size)},
                            torch_threads());
}

GridTensors grid_subsample(Tensor coords, double voxel_size, Tensor offsets) {
  coords = torch::stable::contiguous(coords);
  offsets = torch::stable::contiguous(offsets);
  expect(coords.dim() == 2 && coords.size(1) >= 1 && coords.size(1) <= max_grid_dims, op, "coords must be (N, 1 to 8)");
  expect(coords.size(0) < int64_t{1} << 31, op, "at most 2^31 - 1 points in one call");
  expect(coords.scalar_type() == ScalarType::Float || coords.scalar_type() == ScalarType::Double, op,
         "coords must be float32 or float64");
  expect_cloud_offsets(offsets, coords.size(0), op);
  const int64_t points = coords.size(0), clouds = offsets.size(0) - 1;

  Tensor voxel_of_point = empty_like_device(coords, {points}, ScalarType::Long);
  const int64_t count = coords.scalar_type() == ScalarType::Float
                            ? voxels<float>(coords, voxel_size, offsets, voxel_of_point)
                            : voxels<double>(coords, voxel_size, offsets, voxel_of_point);
  expect(count >= 0, op,
         ("row " + std::to_string(-1 - count) +
          " of coords is not finite, or its cell floor(coord / voxel_size) is beyond +-2^31: recentre or drop it")
             .c_str());

  Tensor order = empty_like_device(coords, {points}, ScalarType::Long);
  Tensor point_offsets = empty_like_device(coords, {count + 1}, ScalarType::Long);
  Tensor voxel_offsets = empty_like_device(coords, {clouds + 1}, ScalarType::Long);
  run_grid_order({.voxel_of_point = data<int64_t>(voxel_of_point),
                  .offsets = data<int64_t>(offsets),
                  .order = mutable_data<int64_t>(order),
                  .point_offsets = mutable_data<int64_t>(point_offsets),
                  .voxel_offsets = mutable_data<int64_t>(voxel_offsets),
                  .num_points = points,
                  .num_voxels = count,
                  .num_clouds = clouds},
                 torch_threads());
  return {voxel_of_point, order, point_offsets, voxel_offsets};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "grid_subsample(Tensor coords, float voxel_size, Tensor offsets) -> "
      "(Tensor voxel_of_point, Tensor order, Tensor point_offsets, Tensor voxel_offsets)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) { m.impl("grid_subsample", TORCH_BOX(&grid_subsample)); }

}  // namespace
}  // namespace pcseg::bindings
