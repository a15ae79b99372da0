#include "../kernels/segment_reduce_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

void expect_types(const Tensor& values, const Tensor& offsets, const char* op) {
  expect(values.dim() == 2, op, "values must be (N, C)");
  expect_float(values, op, "values must be float32 or float64");
  expect(offsets.dim() == 1 && offsets.size(0) >= 1, op, "offsets must be (S + 1,)");
  expect(offsets.scalar_type() == ScalarType::Long, op, "offsets must be int64");
}

template <class T>
void forward(const Tensor& values, const Tensor& offsets, Tensor& out, Tensor& arg, Reduce reduce) {
  const OnDevice device(values);
  const SegmentReduce<T> a{.values = data<T>(values),
                           .offsets = data<int64_t>(offsets),
                           .out = mutable_data<T>(out),
                           .arg = reduce == Reduce::max ? mutable_data<int64_t>(arg) : nullptr,
                           .num_segments = offsets.size(0) - 1,
                           .channels = values.size(1),
                           .reduce = reduce};
  Tensor memory = workspace(values, segment_reduce_workspace_bytes(a, values.size(0)));
  segment_reduce_cuda(a, values.size(0), memory.data_ptr(), device.stream());
}

std::tuple<Tensor, Tensor> segment_reduce(Tensor values, Tensor offsets, int64_t reduce) {
  values = torch::stable::contiguous(values);
  offsets = torch::stable::contiguous(offsets);
  expect_types(values, offsets, "segment_reduce");
  const auto kind = static_cast<Reduce>(reduce);
  const int64_t segments = offsets.size(0) - 1;
  Tensor out = empty_like_device(values, {segments, values.size(1)}, values.scalar_type());
  Tensor arg = empty_like_device(values, {kind == Reduce::max ? segments : 0, values.size(1)}, ScalarType::Long);
  if (values.scalar_type() == ScalarType::Float)
    forward<float>(values, offsets, out, arg, kind);
  else
    forward<double>(values, offsets, out, arg, kind);
  return {out, arg};
}

template <class T>
void backward(const Tensor& grad, const Tensor& offsets, const Tensor& arg, Tensor& grad_values, Reduce reduce) {
  const OnDevice device(grad);
  segment_reduce_backward_cuda(SegmentReduceBackward<T>{.grad = data<T>(grad),
                                                        .offsets = data<int64_t>(offsets),
                                                        .arg = data<int64_t>(arg),
                                                        .grad_values = mutable_data<T>(grad_values),
                                                        .num_rows = grad_values.size(0),
                                                        .num_segments = grad.size(0),
                                                        .channels = grad.size(1),
                                                        .reduce = reduce},
                               device.stream());
}

Tensor segment_reduce_backward(Tensor grad, Tensor offsets, Tensor arg, int64_t num_rows, int64_t reduce) {
  constexpr auto op = "segment_reduce_backward";
  grad = torch::stable::contiguous(grad);
  offsets = torch::stable::contiguous(offsets);
  arg = torch::stable::contiguous(arg);
  expect_types(grad, offsets, op);
  expect(grad.size(0) == offsets.size(0) - 1 && num_rows >= 0, op, "grad must be (S, C)");
  const auto kind = static_cast<Reduce>(reduce);
  expect(arg.scalar_type() == ScalarType::Long && arg.dim() == 2 && arg.size(1) == grad.size(1) &&
             arg.size(0) == (kind == Reduce::max ? grad.size(0) : 0),
         op, "arg must be what segment_reduce returned");
  Tensor grad_values = empty_like_device(grad, {num_rows, grad.size(1)}, grad.scalar_type());
  if (grad.scalar_type() == ScalarType::Float)
    backward<float>(grad, offsets, arg, grad_values, kind);
  else
    backward<double>(grad, offsets, arg, grad_values, kind);
  return grad_values;
}

PCSEG_CUDA_IMPL(m) {
  m.impl("segment_reduce", TORCH_BOX(&segment_reduce));
  m.impl("segment_reduce_backward", TORCH_BOX(&segment_reduce_backward));
}

}  // namespace
}  // namespace pcseg::bindings
