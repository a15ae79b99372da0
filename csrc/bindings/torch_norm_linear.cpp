#include "../kernels/norm_linear.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {


struct NormLinearTensors {
  Tensor rows, norm_weight, norm_bias, mean, var, weight, bias;
  double eps;
  bool of_batch;

  void check(const char* op) {
    for (Tensor* t : {&rows, &norm_weight, &norm_bias, &mean, &var, &weight, &bias}) *t = torch::stable::contiguous(*t);
    const ScalarType type = rows.scalar_type();
    expect(type == ScalarType::Float || type == ScalarType::Double, op, "float32 or float64 expected");
    expect(rows.dim() == 2 && weight.dim() == 2 && rows.size(1) >= 1 && weight.size(0) >= 1 &&
               weight.size(1) == rows.size(1),
           op, "rows (R, C), weight (O, C)");
    for (const Tensor* t : {&norm_weight, &norm_bias, &mean, &var})
      expect(t->dim() == 1 && t->size(0) == rows.size(1), op, "norm_weight, norm_bias, mean and var must be (C,)");
    expect(bias.dim() == 1 && bias.size(0) == weight.size(0), op, "bias must be (O,)");
    for (const Tensor* t : {&norm_weight, &norm_bias, &mean, &var, &weight, &bias})
      expect(t->scalar_type() == type, op, "one dtype expected");
  }

  template <class T>
  NormLinear<T> kernel() {
    return {.rows = data<T>(rows),
            .norm_weight = data<T>(norm_weight),
            .norm_bias = data<T>(norm_bias),
            .mean = mutable_data<T>(mean),
            .var = mutable_data<T>(var),
            .weight = data<T>(weight),
            .bias = data<T>(bias),
            .num_rows = rows.size(0),
            .in_channels = rows.size(1),
            .out_channels = weight.size(0),
            .eps = eps,
            .of_batch = of_batch};
  }
};

Tensor like(const Tensor& t) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < t.dim(); ++i) sizes.push_back(t.size(i));
  return empty_like_device(t, sizes, t.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> norm_linear(Tensor rows, Tensor norm_weight, Tensor norm_bias, Tensor mean,
                                               Tensor var, Tensor weight, Tensor bias, double eps, bool of_batch) {
  constexpr auto op = "norm_linear";
  NormLinearTensors in{rows, norm_weight, norm_bias, mean, var, weight, bias, eps, of_batch};
  in.check(op);
  Tensor out_mean = like(norm_bias), out_var = like(norm_bias);
  if (of_batch) in.mean = out_mean, in.var = out_var;
  Tensor out = empty_like_device(rows, {rows.size(0), weight.size(0)}, rows.scalar_type());
  if (rows.scalar_type() == ScalarType::Float)
    run_norm_linear<float>(in.kernel<float>(), mutable_data<float>(out), torch_threads());
  else
    run_norm_linear<double>(in.kernel<double>(), mutable_data<double>(out), torch_threads());
  if (!of_batch) torch::stable::copy_(out_mean, in.mean), torch::stable::copy_(out_var, in.var);
  return {out, out_mean, out_var};
}

template <class T>
void backward(NormLinearTensors& in, const Tensor& grad_out, std::vector<Tensor>& grads) {
  run_norm_linear_backward<T>(in.kernel<T>(),
                              {.grad_out = data<T>(grad_out),
                               .rows = mutable_data<T>(grads[0]),
                               .norm_weight = mutable_data<T>(grads[1]),
                               .norm_bias = mutable_data<T>(grads[2]),
                               .weight = mutable_data<T>(grads[3]),
                               .bias = mutable_data<T>(grads[4])},
                              torch_threads());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> norm_linear_backward(Tensor grad_out, Tensor rows,
                                                                        Tensor norm_weight, Tensor norm_bias,
                                                                        Tensor mean, Tensor var, Tensor weight,
                                                                        Tensor bias, double eps, bool of_batch) {
  constexpr auto op = "norm_linear_backward";
  NormLinearTensors in{rows, norm_weight, norm_bias, mean, var, weight, bias, eps, of_batch};
  in.check(op);
  grad_out = torch::stable::contiguous(grad_out);
  expect(grad_out.scalar_type() == rows.scalar_type() && grad_out.dim() == 2 && grad_out.size(0) == rows.size(0) &&
             grad_out.size(1) == weight.size(0),
         op, "grad_out must be (R, O) of the dtype of rows");
  std::vector<Tensor> grads;
  for (const Tensor* t : {&rows, &norm_weight, &norm_bias, &weight, &bias}) grads.push_back(like(*t));
  rows.scalar_type() == ScalarType::Float ? backward<float>(in, grad_out, grads)
                                          : backward<double>(in, grad_out, grads);
  return {grads[0], grads[1], grads[2], grads[3], grads[4]};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "norm_linear(Tensor rows, Tensor norm_weight, Tensor norm_bias, Tensor mean, Tensor var, Tensor weight, "
      "Tensor bias, float eps, bool of_batch) -> (Tensor out, Tensor mean, Tensor var)");
  m.def(
      "norm_linear_backward(Tensor grad_out, Tensor rows, Tensor norm_weight, Tensor norm_bias, Tensor mean, "
      "Tensor var, Tensor weight, Tensor bias, float eps, bool of_batch) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("norm_linear", TORCH_BOX(&norm_linear));
  m.impl("norm_linear_backward", TORCH_BOX(&norm_linear_backward));
}

}  // namespace
}  // namespace pcseg::bindings
