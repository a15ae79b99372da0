#include <limits>

#include "../kernels/gather_neighbors_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

void expect_types(const Tensor& values, const Tensor& neighbors, const char* op) {
  expect_float(values, op, "values must be float32 or float64");
  expect(neighbors.dim() == 2 && neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be (M, k) int64");
}

template <class T>
void forward(const Tensor& values, const Tensor& neighbors, Tensor& out, double fill) {
  const OnDevice device(values);
  gather_neighbors_cuda(GatherNeighbors<T>{.values = data<T>(values),
                                           .neighbors = data<int64_t>(neighbors),
                                           .out = mutable_data<T>(out),
                                           .num_rows = values.size(0),
                                           .num_entries = neighbors.numel(),
                                           .channels = values.size(1),
                                           .fill = static_cast<T>(fill)},
                        device.stream());
}

Tensor gather_neighbors(Tensor values, Tensor neighbors, double fill) {
  constexpr auto op = "gather_neighbors";
  values = torch::stable::contiguous(values);
  neighbors = torch::stable::contiguous(neighbors);
  expect(values.dim() == 2, op, "values must be (N, C)");
  expect_types(values, neighbors, op);
  Tensor out = empty_like_device(values, {neighbors.size(0), neighbors.size(1), values.size(1)}, values.scalar_type());
  if (values.scalar_type() == ScalarType::Float)
    forward<float>(values, neighbors, out, fill);
  else
    forward<double>(values, neighbors, out, fill);
  return out;
}

template <class T>
void backward(const Tensor& grad, const Tensor& neighbors, Tensor& grad_values) {
  const OnDevice device(grad);
  const GatherNeighborsBackward<T> a{.grad = data<T>(grad),
                                     .neighbors = data<int64_t>(neighbors),
                                     .grad_values = mutable_data<T>(grad_values),
                                     .num_rows = grad_values.size(0),
                                     .num_entries = neighbors.numel(),
                                     .channels = grad.size(2)};
  Tensor memory = workspace(grad, gather_neighbors_backward_workspace_bytes(a.num_entries, a.num_rows));
  gather_neighbors_backward_cuda(a, memory.data_ptr(), device.stream());
}

Tensor gather_neighbors_backward(Tensor grad, Tensor neighbors, int64_t num_rows) {
  constexpr auto op = "gather_neighbors_backward";
  grad = torch::stable::contiguous(grad);
  neighbors = torch::stable::contiguous(neighbors);
  expect_types(grad, neighbors, op);
  expect(grad.dim() == 3 && grad.size(0) == neighbors.size(0) && grad.size(1) == neighbors.size(1), op,
         "grad must be (M, k, C)");
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  expect(num_rows >= 0 && num_rows < kMax && neighbors.numel() < kMax, op, "fewer than 2^31 entries and rows on a GPU");
  Tensor grad_values = empty_like_device(grad, {num_rows, grad.size(2)}, grad.scalar_type());
  if (grad.scalar_type() == ScalarType::Float)
    backward<float>(grad, neighbors, grad_values);
  else
    backward<double>(grad, neighbors, grad_values);
  return grad_values;
}

PCSEG_CUDA_IMPL(m) {
  m.impl("gather_neighbors", TORCH_BOX(&gather_neighbors));
  m.impl("gather_neighbors_backward", TORCH_BOX(&gather_neighbors_backward));
}

}  // namespace
}  // namespace pcseg::bindings
