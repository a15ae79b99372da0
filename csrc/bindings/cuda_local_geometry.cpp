#include "../kernels/local_geometry_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

template <class T>
void run(const Tensor& coords, const Tensor& neighbors, Tensor& eigenvalues, Tensor& normals, Tensor& features) {
  const OnDevice device(coords);
  local_geometry_cuda(LocalGeometry<T>{.coords = data<T>(coords),
                                       .neighbors = data<int64_t>(neighbors),
                                       .eigenvalues = mutable_data<T>(eigenvalues),
                                       .normals = mutable_data<T>(normals),
                                       .features = mutable_data<T>(features),
                                       .num_rows = coords.size(0),
                                       .num_lists = neighbors.size(0),
                                       .width = neighbors.size(1),
                                       .dims = static_cast<int>(coords.size(1))},
                      device.stream());
}

std::tuple<Tensor, Tensor, Tensor> local_geometry(Tensor coords, Tensor neighbors) {
  constexpr auto op = "local_geometry";
  coords = torch::stable::contiguous(coords);
  neighbors = torch::stable::contiguous(neighbors);
  const ScalarType type = coords.scalar_type();
  expect(coords.dim() == 2 && (coords.size(1) == 2 || coords.size(1) == 3), op, "coords must be (N, 2 or 3)");
  expect_float(coords, op, "coords must be float32 or float64");
  expect(neighbors.dim() == 2 && neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be (M, k) int64");
  const int64_t lists = neighbors.size(0), dims = coords.size(1);
  Tensor eigenvalues = empty_like_device(coords, {lists, dims}, type);
  Tensor normals = empty_like_device(coords, {lists, dims}, type);
  Tensor features = empty_like_device(coords, {lists, num_shape_features}, type);
  if (type == ScalarType::Float)
    run<float>(coords, neighbors, eigenvalues, normals, features);
  else
    run<double>(coords, neighbors, eigenvalues, normals, features);
  return {eigenvalues, normals, features};
}

PCSEG_CUDA_IMPL(m) { m.impl("local_geometry", TORCH_BOX(&local_geometry)); }

}  // namespace
}  // namespace pcseg::bindings
