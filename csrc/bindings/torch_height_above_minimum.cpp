#include "../kernels/height_above_minimum.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

constexpr auto op = "height_above_minimum";

template <class T>
bool run(const Tensor& coords, double cell_size, const Tensor& cell_of_point, const Tensor& order,
         const Tensor& point_offsets, const Tensor& cloud_offsets, Tensor& height) {
  return run_height_above_minimum<T>({.coords = data<T>(coords),
                                      .cell_of_point = data<int64_t>(cell_of_point),
                                      .order = data<int64_t>(order),
                                      .point_offsets = data<int64_t>(point_offsets),
                                      .cloud_offsets = data<int64_t>(cloud_offsets),
                                      .height = mutable_data<T>(height),
                                      .num_points = coords.size(0),
                                      .num_cells = point_offsets.size(0) - 1,
                                      .num_clouds = cloud_offsets.size(0) - 1,
                                      .cell_size = static_cast<T>(cell_size)},
                                     torch_threads());
}

Tensor height_above_minimum(Tensor coords, double cell_size, Tensor cell_of_point, Tensor order, Tensor point_offsets,
                            Tensor cloud_offsets) {
  coords = torch::stable::contiguous(coords);
  for (Tensor* t : {&cell_of_point, &order, &point_offsets, &cloud_offsets}) {
    *t = torch::stable::contiguous(*t);
    expect(t->dim() == 1 && t->scalar_type() == ScalarType::Long, op, "the grid's tensors must be (n,) int64");
  }
  const ScalarType type = coords.scalar_type();
  expect(coords.dim() == 2 && coords.size(1) == 3, op, "coords must be (N, 3)");
  expect(type == ScalarType::Float || type == ScalarType::Double, op, "coords must be float32 or float64");
  const int64_t points = coords.size(0);
  expect(cell_of_point.size(0) == points && order.size(0) == points, op, "the grid must be one of coords");
  expect_offsets(point_offsets, points, op);
  expect_offsets(cloud_offsets, point_offsets.size(0) - 1, op);
  Tensor height = empty_like_device(coords, {points}, type);
  const bool valid = type == ScalarType::Float
                         ? run<float>(coords, cell_size, cell_of_point, order, point_offsets, cloud_offsets, height)
                         : run<double>(coords, cell_size, cell_of_point, order, point_offsets, cloud_offsets, height);
  expect(valid, op, "the grid must be one of coords");
  return height;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "height_above_minimum(Tensor coords, float cell_size, Tensor cell_of_point, Tensor order, Tensor point_offsets, "
      "Tensor cloud_offsets) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) { m.impl("height_above_minimum", TORCH_BOX(&height_above_minimum)); }

}  // namespace
}  // namespace pcseg::bindings
