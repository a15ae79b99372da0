#include "../kernels/potts_energy_cuda.h"
#include "cuda_common.h"
#include "potts_inputs.h"

namespace pcseg::bindings {
namespace {

void expect_sizes(const PottsInputs& in, const char* op) {
  expect(in.log_probs.size(0) < INT32_MAX && in.edge_index.numel() < INT32_MAX, op,
         "at most 2^31 - 2 rows and edges on a GPU");
}

template <class T>
void forward(const PottsInputs& in, Tensor& energy) {
  const OnDevice device(in.log_probs);
  const PottsEnergy<T> a = in.kernel<T>();
  Tensor memory = workspace(in.log_probs, potts_energy_workspace_bytes(a));
  potts_energy_cuda(a, in.edge_index.numel(), mutable_data<T>(energy), memory.data_ptr(), device.stream());
}

Tensor potts_energy(Tensor log_probs, Tensor edge_index, Tensor edge_weight, MaybeTensor edge_offsets,
                    int64_t relaxation) {
  constexpr auto op = "potts_energy";
  PottsInputs in{log_probs, edge_index, edge_weight, edge_offsets, relaxation};
  in.check(op);
  expect_sizes(in, op);
  Tensor energy = empty_like_device(in.log_probs, {in.log_probs.size(0)}, in.log_probs.scalar_type());
  if (in.log_probs.scalar_type() == ScalarType::Float)
    forward<float>(in, energy);
  else
    forward<double>(in, energy);
  return energy;
}

template <class T>
void backward(const PottsInputs& in, const PottsEnergyGradients<T>& g) {
  const OnDevice device(in.log_probs);
  const PottsEnergy<T> a = in.kernel<T>();
  const int64_t num_edges = in.edge_index.numel();
  Tensor memory = workspace(in.log_probs, potts_energy_backward_workspace_bytes(a, num_edges));
  potts_energy_backward_cuda(a, num_edges, g, memory.data_ptr(), device.stream());
}

std::tuple<Tensor, Tensor> potts_energy_backward(Tensor grad_energy, Tensor log_probs, Tensor edge_index,
                                                 Tensor edge_weight, MaybeTensor edge_offsets, int64_t relaxation,
                                                 bool need_probs, bool need_weight) {
  constexpr auto op = "potts_energy_backward";
  PottsInputs in{log_probs, edge_index, edge_weight, edge_offsets, relaxation};
  in.check(op);
  expect_sizes(in, op);
  PottsOutputs out(in, grad_energy, need_probs, need_weight, op);
  if (in.log_probs.scalar_type() == ScalarType::Float)
    backward(in, out.kernel<float>());
  else
    backward(in, out.kernel<double>());
  return {out.grad_probs, out.grad_weight};
}

PCSEG_CUDA_IMPL(m) {
  m.impl("potts_energy", TORCH_BOX(&potts_energy));
  m.impl("potts_energy_backward", TORCH_BOX(&potts_energy_backward));
}

}  // namespace
}  // namespace pcseg::bindings
