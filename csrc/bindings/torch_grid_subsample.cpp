#include <string>

#include "../kernels/grid_subsample.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

using GridTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
constexpr auto op = "grid_subsample";

// point_offsets is made when the kernel knows the number of voxels.
struct PointOffsets {
  const Tensor& like;
  std::optional<Tensor> made;

  static int64_t* make(void* self, int64_t size) {
    auto& offsets = *static_cast<PointOffsets*>(self);
    offsets.made = empty_like_device(offsets.like, {size}, ScalarType::Long);
    return mutable_data<int64_t>(*offsets.made);
  }
};

template <class T>
int64_t run(const Tensor& coords, double voxel_size, const Tensor& offsets, Tensor& voxel_of_point, Tensor& order,
            Tensor& voxel_offsets, PointOffsets& point_offsets) {
  return run_grid_subsample<T>({.voxels = {.coords = data<T>(coords),
                                           .offsets = data<int64_t>(offsets),
                                           .voxel_of_point = mutable_data<int64_t>(voxel_of_point),
                                           .num_points = coords.size(0),
                                           .num_clouds = offsets.size(0) - 1,
                                           .dims = static_cast<int>(coords.size(1)),
                                           .voxel_size = static_cast<T>(voxel_size)},
                                .order = mutable_data<int64_t>(order),
                                .voxel_offsets = mutable_data<int64_t>(voxel_offsets),
                                .point_offsets = PointOffsets::make,
                                .context = &point_offsets},
                               torch_threads());
}

GridTensors grid_subsample(Tensor coords, double voxel_size, Tensor offsets) {
  coords = torch::stable::contiguous(coords);
  offsets = torch::stable::contiguous(offsets);
  expect(coords.dim() == 2 && coords.size(1) >= 1 && coords.size(1) <= max_grid_dims, op, "coords must be (N, 1 to 8)");
  expect(coords.size(0) < int64_t{1} << 31, op, "at most 2^31 - 1 points in one call");
  expect(coords.scalar_type() == ScalarType::Float || coords.scalar_type() == ScalarType::Double, op,
         "coords must be float32 or float64");
  expect_offsets(offsets, coords.size(0), op);
  const int64_t points = coords.size(0);

  Tensor voxel_of_point = empty_like_device(coords, {points}, ScalarType::Long);
  Tensor order = empty_like_device(coords, {points}, ScalarType::Long);
  Tensor voxel_offsets = empty_like_device(coords, {offsets.size(0)}, ScalarType::Long);
  PointOffsets point_offsets{coords, {}};
  const auto run_typed = coords.scalar_type() == ScalarType::Float ? run<float> : run<double>;
  const int64_t count = run_typed(coords, voxel_size, offsets, voxel_of_point, order, voxel_offsets, point_offsets);
  expect(count >= 0, op,
         ("row " + std::to_string(-1 - count) +
          " of coords is not finite, or its cell floor(coord / voxel_size) is beyond +-2^31: recentre or drop it")
             .c_str());
  return {voxel_of_point, order, *point_offsets.made, voxel_offsets};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "grid_subsample(Tensor coords, float voxel_size, Tensor offsets) -> "
      "(Tensor voxel_of_point, Tensor order, Tensor point_offsets, Tensor voxel_offsets)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) { m.impl("grid_subsample", TORCH_BOX(&grid_subsample)); }

}  // namespace
}  // namespace pcseg::bindings
