#include "norm_inputs.h"

namespace pcseg::bindings {
namespace {

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
void backward(NormLinearTensors& in, const Tensor& grad_out, NormGradientTensors& gradients) {
  run_norm_linear_backward<T>(in.kernel<T>(), gradients.kernel<T>(data<T>(grad_out)), torch_threads());
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
  NormGradientTensors gradients(in);
  rows.scalar_type() == ScalarType::Float ? backward<float>(in, grad_out, gradients)
                                          : backward<double>(in, grad_out, gradients);
  const std::vector<Tensor>& grads = gradients.grads;
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
