#include "../kernels/height_above_minimum_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

template <class T>
void run(const Tensor& coords, double cell_size, const Tensor& cell_of_point, const Tensor& order,
         const Tensor& point_offsets, const Tensor& cloud_offsets, Tensor& height) {
  const OnDevice device(coords);
  const HeightAboveMinimum<T> a{.coords = data<T>(coords),
                                .cell_of_point = data<int64_t>(cell_of_point),
                                .order = data<int64_t>(order),
                                .point_offsets = data<int64_t>(point_offsets),
                                .cloud_offsets = data<int64_t>(cloud_offsets),
                                .height = mutable_data<T>(height),
                                .num_points = coords.size(0),
                                .num_cells = point_offsets.size(0) - 1,
                                .num_clouds = cloud_offsets.size(0) - 1,
                                .cell_size = static_cast<T>(cell_size)};
  Tensor memory = workspace(coords, height_above_minimum_workspace_bytes(a));
  height_above_minimum_cuda(a, memory.data_ptr(), device.stream());
}

Tensor height_above_minimum(Tensor coords, double cell_size, Tensor cell_of_point, Tensor order, Tensor point_offsets,
                            Tensor cloud_offsets) {
  constexpr auto op = "height_above_minimum";
  coords = torch::stable::contiguous(coords);
  for (Tensor* t : {&cell_of_point, &order, &point_offsets, &cloud_offsets}) {
    *t = torch::stable::contiguous(*t);
    expect(t->dim() == 1 && t->scalar_type() == ScalarType::Long, op, "the grid's tensors must be (n,) int64");
  }
  expect(coords.dim() == 2 && coords.size(1) == 3, op, "coords must be (N, 3)");
  expect_float(coords, op, "coords must be float32 or float64");
  const int64_t points = coords.size(0);
  expect(cell_of_point.size(0) == points && order.size(0) == points && point_offsets.size(0) >= 1 &&
             cloud_offsets.size(0) >= 1,
         op, "the grid must be one of coords");
  Tensor height = empty_like_device(coords, {points}, coords.scalar_type());
  if (coords.scalar_type() == ScalarType::Float)
    run<float>(coords, cell_size, cell_of_point, order, point_offsets, cloud_offsets, height);
  else
    run<double>(coords, cell_size, cell_of_point, order, point_offsets, cloud_offsets, height);
  return height;
}

PCSEG_CUDA_IMPL(m) { m.impl("height_above_minimum", TORCH_BOX(&height_above_minimum)); }

}  // namespace
}  // namespace pcseg::bindings
