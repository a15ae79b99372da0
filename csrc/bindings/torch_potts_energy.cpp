#include "potts_inputs.h"

namespace pcseg::bindings {
namespace {

void check(PottsInputs& in, const char* op) {
  in.check(op);
  if (in.edge_offsets) expect_offsets(*in.edge_offsets, in.edge_index.size(0), op, "edge_offsets", "edges");
}

Tensor potts_energy(Tensor log_probs, Tensor edge_index, Tensor edge_weight, MaybeTensor edge_offsets,
                    int64_t relaxation) {
  constexpr auto op = "potts_energy";
  PottsInputs in{log_probs, edge_index, edge_weight, edge_offsets, relaxation};
  check(in, op);
  Tensor energy = empty_like_device(in.log_probs, {in.log_probs.size(0)}, in.log_probs.scalar_type());
  const bool inside = in.log_probs.scalar_type() == ScalarType::Float
                          ? run_potts_energy<float>(in.kernel<float>(), mutable_data<float>(energy), torch_threads())
                          : run_potts_energy<double>(in.kernel<double>(), mutable_data<double>(energy), torch_threads());
  expect(inside, op, "neighbours must lie in [0, N], where N (the number of rows) means no edge");
  return energy;
}

std::tuple<Tensor, Tensor> potts_energy_backward(Tensor grad_energy, Tensor log_probs, Tensor edge_index,
                                                 Tensor edge_weight, MaybeTensor edge_offsets, int64_t relaxation,
                                                 bool need_probs, bool need_weight) {
  constexpr auto op = "potts_energy_backward";
  PottsInputs in{log_probs, edge_index, edge_weight, edge_offsets, relaxation};
  check(in, op);
  PottsOutputs out(in, grad_energy, need_probs, need_weight, op);
  if (in.log_probs.scalar_type() == ScalarType::Float)
    run_potts_energy_backward<float>(in.kernel<float>(), out.kernel<float>(), torch_threads());
  else
    run_potts_energy_backward<double>(in.kernel<double>(), out.kernel<double>(), torch_threads());
  return {out.grad_probs, out.grad_weight};
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
