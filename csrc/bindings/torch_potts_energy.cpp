#include "potts_inputs.h"

namespace pcseg::bindings {
namespace {

void expect_offsets(const PottsInputs& in, const char* op) {
  if (!in.edge_offsets) return;
  const int64_t* o = data<int64_t>(*in.edge_offsets);
  const int64_t rows = in.log_probs.size(0);
  bool ascending = true;
  for (int64_t i = 0; i < rows; ++i) ascending &= o[i] <= o[i + 1];
  expect(ascending && o[0] == 0 && o[rows] == in.edge_index.size(0), op,
         "edge_offsets must ascend from 0 to the number of edges");
}

Tensor potts_energy(Tensor log_probs, Tensor edge_index, Tensor edge_weight, MaybeTensor edge_offsets,
                    int64_t relaxation) {
  constexpr auto op = "potts_energy";
  PottsInputs in{log_probs, edge_index, edge_weight, edge_offsets, relaxation};
  in.check(op);
  expect_offsets(in, op);
  Tensor energy = empty_like_device(in.log_probs, {in.log_probs.size(0)}, in.log_probs.scalar_type());
  const bool inside = in.log_probs.scalar_type() == ScalarType::Float
                          ? run_potts_energy<float>(in.kernel<float>(), mutable_data<float>(energy), torch_threads())
                          : run_potts_energy<double>(in.kernel<double>(), mutable_data<double>(energy), torch_threads());
  expect(inside, op, "neighbours must lie in [0, N], where N (the number of rows) means no edge");
  return energy;
}

template <class T>
void run_backward(const PottsInputs& in, const Tensor& grad_energy, Tensor& grad_probs, Tensor& grad_weight,
                  bool need_probs, bool need_weight) {
  run_potts_energy_backward<T>(in.kernel<T>(),
                               {.grad_energy = data<T>(grad_energy),
                                .log_probs = need_probs ? mutable_data<T>(grad_probs) : nullptr,
                                .edge_weight = need_weight ? mutable_data<T>(grad_weight) : nullptr},
                               torch_threads());
}

std::tuple<Tensor, Tensor> potts_energy_backward(Tensor grad_energy, Tensor log_probs, Tensor edge_index,
                                                 Tensor edge_weight, MaybeTensor edge_offsets, int64_t relaxation,
                                                 bool need_probs, bool need_weight) {
  constexpr auto op = "potts_energy_backward";
  PottsInputs in{log_probs, edge_index, edge_weight, edge_offsets, relaxation};
  in.check(op);
  expect_offsets(in, op);
  grad_energy = torch::stable::contiguous(grad_energy);
  const ScalarType type = in.log_probs.scalar_type();
  expect(grad_energy.dim() == 1 && grad_energy.size(0) == in.log_probs.size(0) && grad_energy.scalar_type() == type, op,
         "grad_energy must be (N,) of the dtype of log_probs");
  Tensor grad_probs = need_probs ? torch::stable::empty_like(in.log_probs) : empty_like_device(in.log_probs, {0}, type);
  Tensor grad_weight =
      need_weight ? torch::stable::empty_like(in.edge_weight) : empty_like_device(in.edge_weight, {0}, type);
  if (type == ScalarType::Float)
    run_backward<float>(in, grad_energy, grad_probs, grad_weight, need_probs, need_weight);
  else
    run_backward<double>(in, grad_energy, grad_probs, grad_weight, need_probs, need_weight);
  return {grad_probs, grad_weight};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "potts_energy(Tensor log_probs, Tensor edge_index, Tensor edge_weight, Tensor? edge_offsets, int relaxation) -> "
      "Tensor");
  m.def(
      "potts_energy_backward(Tensor grad_energy, Tensor log_probs, Tensor edge_index, Tensor edge_weight, "
      "Tensor? edge_offsets, int relaxation, bool need_probs, bool need_weight) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("potts_energy", TORCH_BOX(&potts_energy));
  m.impl("potts_energy_backward", TORCH_BOX(&potts_energy_backward));
}

}  // namespace
}  // namespace pcseg::bindings
