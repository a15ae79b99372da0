// The arguments of a norm, ReLU and linear layer, checked: what norm_linear and norm_attention share.
#pragma once

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

inline Tensor like(const Tensor& t) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < t.dim(); ++i) sizes.push_back(t.size(i));
  return empty_like_device(t, sizes, t.scalar_type());
}

// Their gradients.
struct NormGradientTensors {
  std::vector<Tensor> grads;

  explicit NormGradientTensors(const NormLinearTensors& in) {
    for (const Tensor* t : {&in.rows, &in.norm_weight, &in.norm_bias, &in.weight, &in.bias}) grads.push_back(like(*t));
  }
  template <class T>
  NormLinearGradients<T> kernel(const T* grad_out) {
    return {.grad_out = grad_out,
            .rows = mutable_data<T>(grads[0]),
            .norm_weight = mutable_data<T>(grads[1]),
            .norm_bias = mutable_data<T>(grads[2]),
            .weight = mutable_data<T>(grads[3]),
            .bias = mutable_data<T>(grads[4])};
  }
};

}  // namespace
}  // namespace pcseg::bindings
