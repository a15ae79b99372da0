#include "../kernels/linear.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

void check(const Tensor& rows, const Tensor& weight, const char* op) {
  expect(rows.dim() == 2 && weight.dim() == 2, op, "rows and weight must have two dimensions");
  expect(rows.scalar_type() == ScalarType::Float || rows.scalar_type() == ScalarType::Double, op,
         "rows must be float32 or float64");
  expect(weight.scalar_type() == rows.scalar_type(), op, "one dtype expected");
}

// rows (N, in) by weight (out, in), or by its transpose: rows (N, out).
template <class T>
void multiply(const Tensor& rows, const Tensor& weight, Tensor& out, bool transposed) {
  const int64_t columns = weight.size(1);
  run_linear<T>({.rows = data<T>(rows),
                 .matrix = data<T>(weight),
                 .out = mutable_data<T>(out),
                 .num_rows = rows.size(0),
                 .in_channels = rows.size(1),
                 .out_channels = out.size(1),
                 .in_step = transposed ? columns : 1,
                 .out_step = transposed ? 1 : columns},
                torch_threads());
}

template <class T>
void weights(const Tensor& grad_out, const Tensor& rows, Tensor& out) {
  run_linear_weights<T>({.left = data<T>(grad_out),
                         .right = data<T>(rows),
                         .out = mutable_data<T>(out),
                         .num_rows = rows.size(0),
                         .left_channels = grad_out.size(1),
                         .right_channels = rows.size(1)},
                        torch_threads());
}

Tensor linear(Tensor rows, Tensor weight) {
  constexpr auto op = "linear";
  check(rows, weight, op);
  expect(rows.size(1) == weight.size(1), op, "rows (N, C), weight (O, C)");
  rows = torch::stable::contiguous(rows);
  weight = torch::stable::contiguous(weight);
  Tensor out = empty_like_device(rows, {rows.size(0), weight.size(0)}, rows.scalar_type());
  if (rows.scalar_type() == ScalarType::Float)
    multiply<float>(rows, weight, out, false);
  else
    multiply<double>(rows, weight, out, false);
  return out;
}

std::tuple<Tensor, Tensor> linear_backward(Tensor grad_out, Tensor rows, Tensor weight, bool need_rows,
                                           bool need_weight) {
  constexpr auto op = "linear_backward";
  check(rows, weight, op);
  check(grad_out, weight, op);
  expect(rows.size(1) == weight.size(1) && grad_out.size(1) == weight.size(0) && grad_out.size(0) == rows.size(0), op,
         "grad_out (N, O), rows (N, C), weight (O, C)");
  grad_out = torch::stable::contiguous(grad_out);
  rows = torch::stable::contiguous(rows);
  weight = torch::stable::contiguous(weight);
  const bool single = rows.scalar_type() == ScalarType::Float;
  const auto sizes = [](bool needed, const Tensor& like) {
    return needed ? std::vector<int64_t>{like.size(0), like.size(1)} : std::vector<int64_t>{0};
  };
  Tensor grad_rows = empty_like_device(rows, sizes(need_rows, rows), rows.scalar_type());
  Tensor grad_weight = empty_like_device(rows, sizes(need_weight, weight), rows.scalar_type());
  if (need_rows) single ? multiply<float>(grad_out, weight, grad_rows, true)
                        : multiply<double>(grad_out, weight, grad_rows, true);
  if (need_weight) single ? weights<float>(grad_out, rows, grad_weight) : weights<double>(grad_out, rows, grad_weight);
  return {grad_rows, grad_weight};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def("linear(Tensor rows, Tensor weight) -> Tensor");
  m.def(
      "linear_backward(Tensor grad_out, Tensor rows, Tensor weight, bool need_rows, bool need_weight) -> (Tensor, "
      "Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_backward", TORCH_BOX(&linear_backward));
}

}  // namespace
}  // namespace pcseg::bindings
