#include "../kernels/neighbor_max.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

template <class T>
void forward(const Tensor& values, const Tensor& neighbors, Tensor& out, Tensor& arg) {
  run_neighbor_max<T>({.values = data<T>(values),
                       .neighbors = data<int64_t>(neighbors),
                       .out = mutable_data<T>(out),
                       .arg = mutable_data<int32_t>(arg),
                       .num_rows = values.size(0),
                       .channels = values.size(1),
                       .num_lists = neighbors.size(0),
                       .width = neighbors.size(1)},
                      torch_threads());
}

std::tuple<Tensor, Tensor> neighbor_max(Tensor values, Tensor neighbors) {
  constexpr auto op = "neighbor_max";
  values = torch::stable::contiguous(values);
  neighbors = torch::stable::contiguous(neighbors);
  expect(values.dim() == 2 && neighbors.dim() == 2, op, "values (N, C), neighbors (M, H)");
  expect(neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be int64");
  expect(values.size(0) < INT32_MAX, op, "at most 2^31 - 2 rows");
  const int64_t* index = data<int64_t>(neighbors);
  const int64_t count = neighbors.size(0) * neighbors.size(1), rows = values.size(0);
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= static_cast<uint64_t>(index[i]) <= static_cast<uint64_t>(rows);
  expect(inside, op, "neighbors must lie in [0, N]");

  Tensor out = empty_like_device(values, {neighbors.size(0), values.size(1)}, values.scalar_type());
  Tensor arg = empty_like_device(values, {neighbors.size(0), values.size(1)}, ScalarType::Int);
  if (values.scalar_type() == ScalarType::Float) {
    forward<float>(values, neighbors, out, arg);
  } else {
    expect(values.scalar_type() == ScalarType::Double, op, "values must be float32 or float64");
    forward<double>(values, neighbors, out, arg);
  }
  return {out, arg};
}

template <class T>
void backward(const Tensor& grad, const Tensor& arg, Tensor& grad_values) {
  run_neighbor_max_backward<T>({.grad = data<T>(grad),
                                .arg = data<int32_t>(arg),
                                .grad_values = mutable_data<T>(grad_values),
                                .num_rows = grad_values.size(0),
                                .channels = grad.size(1),
                                .num_lists = grad.size(0)},
                               torch_threads());
}

Tensor neighbor_max_backward(Tensor grad, Tensor arg, int64_t num_rows) {
  constexpr auto op = "neighbor_max_backward";
  grad = torch::stable::contiguous(grad);
  arg = torch::stable::contiguous(arg);
  expect(grad.dim() == 2 && arg.dim() == 2 && arg.size(0) == grad.size(0) && arg.size(1) == grad.size(1), op,
         "grad and arg (M, C)");
  expect(arg.scalar_type() == ScalarType::Int && num_rows >= 0, op, "arg must be int32, num_rows at least 0");
  const int32_t* row = data<int32_t>(arg);
  const int64_t count = arg.size(0) * arg.size(1);
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= row[i] >= 0 && row[i] <= num_rows;
  expect(inside, op, "arg must lie in [0, num_rows]");

  Tensor grad_values = empty_like_device(grad, {num_rows, grad.size(1)}, grad.scalar_type());
  if (grad.scalar_type() == ScalarType::Float) {
    backward<float>(grad, arg, grad_values);
  } else {
    expect(grad.scalar_type() == ScalarType::Double, op, "grad must be float32 or float64");
    backward<double>(grad, arg, grad_values);
  }
  return grad_values;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def("neighbor_max(Tensor values, Tensor neighbors) -> (Tensor out, Tensor arg)");
  m.def("neighbor_max_backward(Tensor grad, Tensor arg, SymInt num_rows) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("neighbor_max", TORCH_BOX(&neighbor_max));
  m.impl("neighbor_max_backward", TORCH_BOX(&neighbor_max_backward));
}

}  // namespace
}  // namespace pcseg::bindings
