// The inputs of potts_energy, checked as far as memory safety needs, for the CPU's binding and the GPU's.
#pragma once

#include "../kernels/potts_energy.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

using MaybeTensor = std::optional<Tensor>;

struct PottsInputs {
  Tensor log_probs, edge_index, edge_weight;
  MaybeTensor edge_offsets;
  int64_t relaxation;

  void check(const char* op) {
    log_probs = torch::stable::contiguous(log_probs);
    edge_index = torch::stable::contiguous(edge_index);
    edge_weight = torch::stable::contiguous(edge_weight);
    if (edge_offsets) edge_offsets = torch::stable::contiguous(*edge_offsets);
    const ScalarType type = log_probs.scalar_type();
    expect(log_probs.dim() == 2 && log_probs.size(1) >= 1, op, "log_probs must be (N, K), K >= 1");
    expect(type == ScalarType::Float || type == ScalarType::Double, op, "log_probs must be float32 or float64");
    expect(edge_index.scalar_type() == ScalarType::Long, op, "the indices of neighbours must be int64");
    expect(edge_weight.scalar_type() == type, op, "edge_weight must have the dtype of log_probs");
    const int64_t dim = edge_offsets ? 1 : 2;
    expect(edge_index.dim() == dim && edge_weight.dim() == dim, op, "neighbors and edge_weight must be (N, k) or (E,)");
    for (int64_t d = 0; d < dim; ++d)
      expect(edge_weight.size(d) == edge_index.size(d), op, "edge_weight must have the shape of the neighbours");
    if (edge_offsets)
      expect(edge_offsets->scalar_type() == ScalarType::Long && edge_offsets->dim() == 1 &&
                 edge_offsets->size(0) == log_probs.size(0) + 1,
             op, "edge_offsets must be (N + 1,) int64");
    else
      expect(edge_index.size(0) == log_probs.size(0), op, "neighbors must be (N, k)");
    expect(0 <= relaxation && relaxation < kRelaxations, op, "unknown relaxation");
  }

  template <class T>
  PottsEnergy<T> kernel() const {
    return {.log_probs = data<T>(log_probs),
            .edge_index = data<int64_t>(edge_index),
            .edge_weight = data<T>(edge_weight),
            .edge_offsets = edge_offsets ? data<int64_t>(*edge_offsets) : nullptr,
            .num_rows = log_probs.size(0),
            .num_classes = log_probs.size(1),
            .width = edge_offsets ? 0 : edge_index.size(1),
            .relaxation = static_cast<Relaxation>(relaxation)};
  }
};

// The gradients: empty where they are not wanted.
struct PottsOutputs {
  Tensor grad_energy, grad_probs, grad_weight;
  bool need_probs, need_weight;

  PottsOutputs(const PottsInputs& in, const Tensor& grad, bool probs, bool weight, const char* op)
      : grad_energy(torch::stable::contiguous(grad)),
        grad_probs(probs ? torch::stable::empty_like(in.log_probs)
                         : empty_like_device(in.log_probs, {0}, in.log_probs.scalar_type())),
        grad_weight(weight ? torch::stable::empty_like(in.edge_weight)
                           : empty_like_device(in.edge_weight, {0}, in.log_probs.scalar_type())),
        need_probs(probs),
        need_weight(weight) {
    expect(grad_energy.dim() == 1 && grad_energy.size(0) == in.log_probs.size(0) &&
               grad_energy.scalar_type() == in.log_probs.scalar_type(),
           op, "grad_energy must be (N,) of the dtype of log_probs");
  }

  template <class T>
  PottsEnergyGradients<T> kernel() {
    return {.grad_energy = data<T>(grad_energy),
            .log_probs = need_probs ? mutable_data<T>(grad_probs) : nullptr,
            .edge_weight = need_weight ? mutable_data<T>(grad_weight) : nullptr};
  }
};

}  // namespace
}  // namespace pcseg::bindings
