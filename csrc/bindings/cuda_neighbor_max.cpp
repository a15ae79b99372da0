#include <limits>

#include "../kernels/neighbor_max_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();

template <class T>
void forward(const Tensor& values, const Tensor& neighbors, Tensor& out, Tensor& arg) {
  const OnDevice device(values);
  neighbor_max_cuda(NeighborMax<T>{.values = data<T>(values),
                                   .neighbors = data<int64_t>(neighbors),
                                   .out = mutable_data<T>(out),
                                   .arg = mutable_data<int32_t>(arg),
                                   .num_rows = values.size(0),
                                   .channels = values.size(1),
                                   .num_lists = neighbors.size(0),
                                   .width = neighbors.size(1)},
                    device.stream());
}

std::tuple<Tensor, Tensor> neighbor_max(Tensor values, Tensor neighbors) {
  constexpr auto op = "neighbor_max";
  values = torch::stable::contiguous(values);
  neighbors = torch::stable::contiguous(neighbors);
  expect(values.dim() == 2 && neighbors.dim() == 2, op, "values (N, C), neighbors (M, H)");
  expect_float(values, op, "values must be float32 or float64");
  expect(neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be int64");
  expect(values.size(0) < kMaxRows, op, "at most 2^31 - 2 rows");
  Tensor out = empty_like_device(values, {neighbors.size(0), values.size(1)}, values.scalar_type());
  Tensor arg = empty_like_device(values, {neighbors.size(0), values.size(1)}, ScalarType::Int);
  if (values.scalar_type() == ScalarType::Float)
    forward<float>(values, neighbors, out, arg);
  else
    forward<double>(values, neighbors, out, arg);
  return {out, arg};
}

template <class T>
void backward(const Tensor& grad, const Tensor& arg, Tensor& grad_values) {
  const OnDevice device(grad);
  const NeighborMaxBackward<T> a{.grad = data<T>(grad),
                                 .arg = data<int32_t>(arg),
                                 .grad_values = mutable_data<T>(grad_values),
                                 .num_rows = grad_values.size(0),
                                 .channels = grad.size(1),
                                 .num_lists = grad.size(0)};
  Tensor memory = workspace(grad, neighbor_max_backward_workspace_bytes(a.num_lists, a.num_rows, a.channels));
  neighbor_max_backward_cuda(a, memory.data_ptr(), device.stream());
}

Tensor neighbor_max_backward(Tensor grad, Tensor arg, int64_t num_rows) {
  constexpr auto op = "neighbor_max_backward";
  grad = torch::stable::contiguous(grad);
  arg = torch::stable::contiguous(arg);
  expect(grad.dim() == 2 && arg.dim() == 2 && arg.size(0) == grad.size(0) && arg.size(1) == grad.size(1), op,
         "grad and arg (M, C)");
  expect_float(grad, op, "grad must be float32 or float64");
  expect(arg.scalar_type() == ScalarType::Int, op, "arg must be int32");
  expect(num_rows >= 0 && num_rows < kMaxRows && grad.size(0) < kMaxRows, op, "at most 2^31 - 2 rows and lists");
  Tensor grad_values = empty_like_device(grad, {num_rows, grad.size(1)}, grad.scalar_type());
  if (grad.scalar_type() == ScalarType::Float)
    backward<float>(grad, arg, grad_values);
  else
    backward<double>(grad, arg, grad_values);
  return grad_values;
}

PCSEG_CUDA_IMPL(m) {
  m.impl("neighbor_max", TORCH_BOX(&neighbor_max));
  m.impl("neighbor_max_backward", TORCH_BOX(&neighbor_max_backward));
}

}  // namespace
}  // namespace pcseg::bindings
