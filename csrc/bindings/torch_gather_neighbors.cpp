#include "../kernels/gather_neighbors.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

void expect_types(const Tensor& values, const Tensor& neighbors, const char* op) {
  expect(values.scalar_type() == ScalarType::Float || values.scalar_type() == ScalarType::Double, op,
         "values must be float32 or float64");
  expect(neighbors.dim() == 2 && neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be (M, k) int64");
}

template <class T>
bool forward(const Tensor& values, const Tensor& neighbors, Tensor& out, double fill) {
  return run_gather_neighbors<T>({.values = data<T>(values),
                                  .neighbors = data<int64_t>(neighbors),
                                  .out = mutable_data<T>(out),
                                  .num_rows = values.size(0),
                                  .num_entries = neighbors.numel(),
                                  .channels = values.size(1),
                                  .fill = static_cast<T>(fill)},
                                 torch_threads());
}

Tensor gather_neighbors(Tensor values, Tensor neighbors, double fill) {
  constexpr auto op = "gather_neighbors";
  values = torch::stable::contiguous(values);
  neighbors = torch::stable::contiguous(neighbors);
  expect(values.dim() == 2, op, "values must be (N, C)");
  expect_types(values, neighbors, op);
  Tensor out = empty_like_device(values, {neighbors.size(0), neighbors.size(1), values.size(1)}, values.scalar_type());
  const bool inside = values.scalar_type() == ScalarType::Float ? forward<float>(values, neighbors, out, fill)
                                                                : forward<double>(values, neighbors, out, fill);
  expect(inside, op, "neighbors must lie within [0, N], N for none");
  return out;
}

template <class T>
void backward(const Tensor& grad, const Tensor& neighbors, Tensor& grad_values) {
  run_gather_neighbors_backward<T>({.grad = data<T>(grad),
                                    .neighbors = data<int64_t>(neighbors),
                                    .grad_values = mutable_data<T>(grad_values),
                                    .num_rows = grad_values.size(0),
                                    .num_entries = neighbors.numel(),
                                    .channels = grad.size(2)},
                                   torch_threads());
}

Tensor gather_neighbors_backward(Tensor grad, Tensor neighbors, int64_t num_rows) {
  constexpr auto op = "gather_neighbors_backward";
  grad = torch::stable::contiguous(grad);
  neighbors = torch::stable::contiguous(neighbors);
  expect_types(grad, neighbors, op);
  expect(grad.dim() == 3 && grad.size(0) == neighbors.size(0) && grad.size(1) == neighbors.size(1), op,
         "grad must be (M, k, C)");
  expect(num_rows >= 0, op, "num_rows must not be negative");
  Tensor grad_values = empty_like_device(grad, {num_rows, grad.size(2)}, grad.scalar_type());
  if (grad.scalar_type() == ScalarType::Float)
    backward<float>(grad, neighbors, grad_values);
  else
    backward<double>(grad, neighbors, grad_values);
  return grad_values;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def("gather_neighbors(Tensor values, Tensor neighbors, float fill) -> Tensor");
  m.def("gather_neighbors_backward(Tensor grad, Tensor neighbors, SymInt num_rows) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("gather_neighbors", TORCH_BOX(&gather_neighbors));
  m.impl("gather_neighbors_backward", TORCH_BOX(&gather_neighbors_backward));
}

}  // namespace
}  // namespace pcseg::bindings
