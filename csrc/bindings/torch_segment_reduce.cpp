#include "../kernels/segment_reduce.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

void expect_segments(const Tensor& offsets, int64_t rows, const char* op) {
  expect(offsets.dim() == 1 && offsets.size(0) >= 1, op, "offsets must be (S + 1,)");
  expect(offsets.scalar_type() == ScalarType::Long, op, "offsets must be int64");
  const int64_t* o = data<int64_t>(offsets);
  const int64_t segments = offsets.size(0) - 1;
  bool ascending = true;
  for (int64_t s = 0; s < segments; ++s) ascending &= o[s] <= o[s + 1];
  expect(ascending, op, "offsets must ascend");
  expect(o[0] >= 0 && o[segments] <= rows, op, "offsets must lie within the rows of values");
}

void expect_float(const Tensor& values, const char* op) {
  expect(values.scalar_type() == ScalarType::Float || values.scalar_type() == ScalarType::Double, op,
         "values must be float32 or float64");
}

template <class T>
void forward(const Tensor& values, const Tensor& offsets, Tensor& out, Tensor& arg, Reduce reduce) {
  run_segment_reduce<T>({.values = data<T>(values),
                         .offsets = data<int64_t>(offsets),
                         .out = mutable_data<T>(out),
                         .arg = reduce == Reduce::max ? mutable_data<int64_t>(arg) : nullptr,
                         .num_segments = offsets.size(0) - 1,
                         .channels = values.size(1),
                         .reduce = reduce},
                        torch_threads());
}

std::tuple<Tensor, Tensor> segment_reduce(Tensor values, Tensor offsets, int64_t reduce) {
  constexpr auto op = "segment_reduce";
  values = torch::stable::contiguous(values);
  offsets = torch::stable::contiguous(offsets);
  expect(values.dim() == 2, op, "values must be (N, C)");
  expect_float(values, op);
  expect_segments(offsets, values.size(0), op);
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
  run_segment_reduce_backward<T>({.grad = data<T>(grad),
                                  .offsets = data<int64_t>(offsets),
                                  .arg = data<int64_t>(arg),
                                  .grad_values = mutable_data<T>(grad_values),
                                  .num_rows = grad_values.size(0),
                                  .num_segments = grad.size(0),
                                  .channels = grad.size(1),
                                  .reduce = reduce},
                                 torch_threads());
}

Tensor segment_reduce_backward(Tensor grad, Tensor offsets, Tensor arg, int64_t num_rows, int64_t reduce) {
  constexpr auto op = "segment_reduce_backward";
  grad = torch::stable::contiguous(grad);
  offsets = torch::stable::contiguous(offsets);
  arg = torch::stable::contiguous(arg);
  expect(grad.dim() == 2 && grad.size(0) == offsets.size(0) - 1, op, "grad must be (S, C)");
  expect_float(grad, op);
  expect_segments(offsets, num_rows, op);
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

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def("segment_reduce(Tensor values, Tensor offsets, int reduce) -> (Tensor out, Tensor arg)");
  m.def("segment_reduce_backward(Tensor grad, Tensor offsets, Tensor arg, SymInt num_rows, int reduce) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("segment_reduce", TORCH_BOX(&segment_reduce));
  m.impl("segment_reduce_backward", TORCH_BOX(&segment_reduce_backward));
}

}  // namespace
}  // namespace pcseg::bindings
