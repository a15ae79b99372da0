#include "../kernels/norm_attention.h"

#include "attention_inputs.h"
#include "norm_inputs.h"

namespace pcseg::bindings {
namespace {

// The norm's rows are the relations (M, k, G) as (M k, G).
struct NormAttentionTensors {
  NormLinearTensors norm;
  PairTensors pairs;

  void check(const char* op) {
    pairs.check(op, false);
    const int64_t m = pairs.neighbors.size(0), k = pairs.neighbors.size(1);
    expect(norm.rows.dim() == 3 && norm.rows.size(0) == m && norm.rows.size(1) == k &&
               norm.rows.scalar_type() == pairs.key.scalar_type(),
           op, "relation must be (M, k, G) of one dtype with the rest");
    norm.rows = torch::stable::view(torch::stable::contiguous(norm.rows), {m * k, norm.rows.size(2)});
    norm.check(op);
    expect(pairs.key.size(1) % norm.weight.size(0) == 0, op, "weight must have a number of rows that divides C");
  }

  template <class T>
  NormAttention<T> kernel() {
    return {.norm = norm.kernel<T>(), .pairs = pairs.kernel<T>()};
  }
};

template <class T>
bool forward(NormAttentionTensors& in, Tensor& out) {
  return run_norm_attention<T>(in.kernel<T>(), mutable_data<T>(out), torch_threads());
}

std::tuple<Tensor, Tensor, Tensor> norm_attention(Tensor relation, Tensor norm_weight, Tensor norm_bias, Tensor mean,
                                                  Tensor var, Tensor weight, Tensor bias, Tensor value,
                                                  Tensor neighbors, Tensor position, Tensor position_weight,
                                                  Tensor position_bias, double eps, bool of_batch) {
  constexpr auto op = "norm_attention";
  NormAttentionTensors in{{relation, norm_weight, norm_bias, mean, var, weight, bias, eps, of_batch},
                          {value, value, neighbors, position, position_weight, position_bias}};
  in.check(op);
  Tensor out_mean = like(norm_bias), out_var = like(norm_bias);
  if (of_batch) in.norm.mean = out_mean, in.norm.var = out_var;
  Tensor out = empty_like_device(value, {neighbors.size(0), value.size(1)}, value.scalar_type());
  expect(in.pairs.is_float() ? forward<float>(in, out) : forward<double>(in, out), op, kIndexRange);
  if (!of_batch) torch::stable::copy_(out_mean, in.norm.mean), torch::stable::copy_(out_var, in.norm.var);
  return {out, out_mean, out_var};
}

template <class T>
void backward(NormAttentionTensors& in, const Tensor& grad_out, NormGradientTensors& norm, PairGradientTensors& pairs) {
  run_norm_attention_backward<T>(
      in.kernel<T>(), {.grad_out = data<T>(grad_out), .norm = norm.kernel<T>(nullptr), .pairs = pairs.kernel<T>()},
      torch_threads());
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients norm_attention_backward(Tensor grad_out, Tensor relation, Tensor norm_weight, Tensor norm_bias, Tensor mean,
                                  Tensor var, Tensor weight, Tensor bias, Tensor value, Tensor neighbors,
                                  Tensor position, Tensor position_weight, Tensor position_bias, double eps,
                                  bool of_batch) {
  constexpr auto op = "norm_attention_backward";
  NormAttentionTensors in{{relation, norm_weight, norm_bias, mean, var, weight, bias, eps, of_batch},
                          {value, value, neighbors, position, position_weight, position_bias}};
  in.check(op);
  grad_out = torch::stable::contiguous(grad_out);
  expect_shape(grad_out, value, {neighbors.size(0), value.size(1)}, op, "grad_out must be (M, C)");
  NormGradientTensors norm(in.norm);
  PairGradientTensors pairs(in.pairs, false);
  in.pairs.is_float() ? backward<float>(in, grad_out, norm, pairs) : backward<double>(in, grad_out, norm, pairs);
  const Tensor of_relation =
      torch::stable::view(norm.grads[0], {relation.size(0), relation.size(1), relation.size(2)});
  return {of_relation, norm.grads[1],  norm.grads[2],         norm.grads[3],      norm.grads[4],
          pairs.key,   pairs.position, pairs.position_weight, pairs.position_bias};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "norm_attention(Tensor relation, Tensor norm_weight, Tensor norm_bias, Tensor mean, Tensor var, Tensor weight, "
      "Tensor bias, Tensor value, Tensor neighbors, Tensor position, Tensor position_weight, Tensor position_bias, "
      "float eps, bool of_batch) -> (Tensor out, Tensor mean, Tensor var)");
  m.def(
      "norm_attention_backward(Tensor grad_out, Tensor relation, Tensor norm_weight, Tensor norm_bias, Tensor mean, "
      "Tensor var, Tensor weight, Tensor bias, Tensor value, Tensor neighbors, Tensor position, "
      "Tensor position_weight, Tensor position_bias, float eps, bool of_batch) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("norm_attention", TORCH_BOX(&norm_attention));
  m.impl("norm_attention_backward", TORCH_BOX(&norm_attention_backward));
}

}  // namespace
}  // namespace pcseg::bindings
