#include "attention_inputs.h"

namespace pcseg::bindings {
namespace {

template <class T>
bool relation(const RelationTensors& in, Tensor& out) {
  return run_attention_relation<T>(in.kernel<T>(), mutable_data<T>(out), torch_threads());
}

Tensor attention_relation(Tensor query, Tensor key, Tensor neighbors, Tensor position, Tensor position_weight,
                          Tensor position_bias, Tensor scale, Tensor shift, Tensor weight, Tensor bias) {
  constexpr auto op = "attention_relation";
  RelationTensors in{{query, key, neighbors, position, position_weight, position_bias}, scale, shift, weight, bias};
  in.check(op);
  Tensor out = empty_like_device(key, {neighbors.size(0), neighbors.size(1), weight.size(0)}, key.scalar_type());
  expect(in.pairs.is_float() ? relation<float>(in, out) : relation<double>(in, out), op, kIndexRange);
  return out;
}

template <class T>
void relation_backward(const RelationTensors& in, const Tensor& grad_out, PairGradientTensors& pairs,
                       std::vector<Tensor>& rest) {
  run_attention_relation_backward<T>(in.kernel<T>(),
                                     {.grad_out = data<T>(grad_out),
                                      .pairs = pairs.kernel<T>(),
                                      .scale = mutable_data<T>(rest[0]),
                                      .shift = mutable_data<T>(rest[1]),
                                      .weight = mutable_data<T>(rest[2]),
                                      .bias = mutable_data<T>(rest[3])},
                                     torch_threads());
}

RelationGradientsTuple attention_relation_backward(Tensor grad_out, Tensor query, Tensor key, Tensor neighbors,
                                                   Tensor position, Tensor position_weight, Tensor position_bias,
                                                   Tensor scale, Tensor shift, Tensor weight, Tensor bias) {
  constexpr auto op = "attention_relation_backward";
  RelationTensors in{{query, key, neighbors, position, position_weight, position_bias}, scale, shift, weight, bias};
  in.check(op);
  grad_out = torch::stable::contiguous(grad_out);
  expect_shape(grad_out, key, {neighbors.size(0), neighbors.size(1), weight.size(0)}, op, "grad_out must be (M, k, G)");
  PairGradientTensors pairs(in.pairs, true);
  std::vector<Tensor> rest;
  for (const Tensor* t : {&scale, &shift, &weight, &bias}) rest.push_back(PairGradientTensors::like(*t));
  in.pairs.is_float() ? relation_backward<float>(in, grad_out, pairs, rest)
                      : relation_backward<double>(in, grad_out, pairs, rest);
  return {pairs.query, pairs.key, pairs.position, pairs.position_weight, pairs.position_bias,
          rest[0],     rest[1],   rest[2],        rest[3]};
}

template <class T>
bool statistics(const PairTensors& in, Tensor& mean, Tensor& var) {
  return run_attention_statistics<T>(
      {.pairs = in.kernel<T>(), .mean = mutable_data<T>(mean), .var = mutable_data<T>(var)}, torch_threads());
}

std::tuple<Tensor, Tensor> attention_statistics(Tensor query, Tensor key, Tensor neighbors, Tensor position,
                                                Tensor position_weight, Tensor position_bias) {
  constexpr auto op = "attention_statistics";
  PairTensors in{query, key, neighbors, position, position_weight, position_bias};
  in.check(op, true);
  Tensor mean = PairGradientTensors::like(position_bias), var = PairGradientTensors::like(position_bias);
  expect(in.is_float() ? statistics<float>(in, mean, var) : statistics<double>(in, mean, var), op, kIndexRange);
  return {mean, var};
}

template <class T>
void statistics_backward(const PairTensors& in, const Tensor& grad_mean, const Tensor& grad_var, const Tensor& mean,
                         PairGradientTensors& pairs) {
  run_attention_statistics_backward<T>(in.kernel<T>(),
                                       {.grad_mean = data<T>(grad_mean),
                                        .grad_var = data<T>(grad_var),
                                        .mean = data<T>(mean),
                                        .pairs = pairs.kernel<T>()},
                                       torch_threads());
}

PairGradientsTuple attention_statistics_backward(Tensor grad_mean, Tensor grad_var, Tensor mean, Tensor query,
                                                 Tensor key, Tensor neighbors, Tensor position, Tensor position_weight,
                                                 Tensor position_bias) {
  constexpr auto op = "attention_statistics_backward";
  PairTensors in{query, key, neighbors, position, position_weight, position_bias};
  in.check(op, true);
  for (Tensor* t : {&grad_mean, &grad_var, &mean}) {
    *t = torch::stable::contiguous(*t);
    expect_shape(*t, key, {key.size(1)}, op, "grad_mean, grad_var and mean must be (C,)");
  }
  PairGradientTensors pairs(in, true);
  in.is_float() ? statistics_backward<float>(in, grad_mean, grad_var, mean, pairs)
                : statistics_backward<double>(in, grad_mean, grad_var, mean, pairs);
  return {pairs.query, pairs.key, pairs.position, pairs.position_weight, pairs.position_bias};
}

template <class T>
bool aggregate(const AggregateTensors& in, Tensor& out) {
  return run_attention_aggregate<T>(in.kernel<T>(), mutable_data<T>(out), torch_threads());
}

Tensor attention_aggregate(Tensor logits, Tensor value, Tensor neighbors, Tensor position, Tensor position_weight,
                           Tensor position_bias) {
  constexpr auto op = "attention_aggregate";
  AggregateTensors in{logits, {value, value, neighbors, position, position_weight, position_bias}};
  in.check(op);
  Tensor out = empty_like_device(value, {neighbors.size(0), value.size(1)}, value.scalar_type());
  expect(in.pairs.is_float() ? aggregate<float>(in, out) : aggregate<double>(in, out), op, kIndexRange);
  return out;
}

template <class T>
void aggregate_backward(const AggregateTensors& in, const Tensor& grad_out, PairGradientTensors& pairs,
                        Tensor& grad_logits) {
  run_attention_aggregate_backward<T>(
      in.kernel<T>(),
      {.grad_out = data<T>(grad_out), .pairs = pairs.kernel<T>(), .logits = mutable_data<T>(grad_logits)},
      torch_threads());
}

PairGradientsTuple attention_aggregate_backward(Tensor grad_out, Tensor logits, Tensor value, Tensor neighbors,
                                                Tensor position, Tensor position_weight, Tensor position_bias) {
  constexpr auto op = "attention_aggregate_backward";
  AggregateTensors in{logits, {value, value, neighbors, position, position_weight, position_bias}};
  in.check(op);
  grad_out = torch::stable::contiguous(grad_out);
  expect_shape(grad_out, value, {neighbors.size(0), value.size(1)}, op, "grad_out must be (M, C)");
  PairGradientTensors pairs(in.pairs, false);
  Tensor grad_logits = PairGradientTensors::like(logits);
  in.pairs.is_float() ? aggregate_backward<float>(in, grad_out, pairs, grad_logits)
                      : aggregate_backward<double>(in, grad_out, pairs, grad_logits);
  return {grad_logits, pairs.key, pairs.position, pairs.position_weight, pairs.position_bias};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "attention_relation(Tensor query, Tensor key, Tensor neighbors, Tensor position, Tensor position_weight, "
      "Tensor position_bias, Tensor scale, Tensor shift, Tensor weight, Tensor bias) -> Tensor");
  m.def(
      "attention_relation_backward(Tensor grad_out, Tensor query, Tensor key, Tensor neighbors, Tensor position, "
      "Tensor position_weight, Tensor position_bias, Tensor scale, Tensor shift, Tensor weight, Tensor bias) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "attention_statistics(Tensor query, Tensor key, Tensor neighbors, Tensor position, Tensor position_weight, "
      "Tensor position_bias) -> (Tensor mean, Tensor var)");
  m.def(
      "attention_statistics_backward(Tensor grad_mean, Tensor grad_var, Tensor mean, Tensor query, Tensor key, "
      "Tensor neighbors, Tensor position, Tensor position_weight, Tensor position_bias) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "attention_aggregate(Tensor logits, Tensor value, Tensor neighbors, Tensor position, Tensor position_weight, "
      "Tensor position_bias) -> Tensor");
  m.def(
      "attention_aggregate_backward(Tensor grad_out, Tensor logits, Tensor value, Tensor neighbors, Tensor position, "
      "Tensor position_weight, Tensor position_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("attention_relation", TORCH_BOX(&attention_relation));
  m.impl("attention_relation_backward", TORCH_BOX(&attention_relation_backward));
  m.impl("attention_statistics", TORCH_BOX(&attention_statistics));
  m.impl("attention_statistics_backward", TORCH_BOX(&attention_statistics_backward));
  m.impl("attention_aggregate", TORCH_BOX(&attention_aggregate));
  m.impl("attention_aggregate_backward", TORCH_BOX(&attention_aggregate_backward));
}

}  // namespace
}  // namespace pcseg::bindings
