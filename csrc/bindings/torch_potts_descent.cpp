#include "../kernels/potts_descent.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

void expect_labels(const Tensor& labels, int64_t rows, const char* op) {
  expect(labels.dim() == 1 && labels.size(0) == rows && labels.scalar_type() == ScalarType::Long, op,
         "labels must be (N,) int64");
}

struct Graph {
  const Tensor& like;
  Tensor other, weight;

  static void allocate(void* context, int64_t slots, int32_t** other, float** weight) {
    Graph& graph = *static_cast<Graph*>(context);
    graph.other = empty_like_device(graph.like, {slots, kPottsBlock}, ScalarType::Int);
    graph.weight = empty_like_device(graph.like, {slots, kPottsBlock}, ScalarType::Float);
    *other = mutable_data<int32_t>(graph.other);
    *weight = mutable_data<float>(graph.weight);
  }
};

std::tuple<Tensor, Tensor, Tensor> potts_graph(Tensor neighbors, Tensor edge_weight, Tensor labels) {
  constexpr auto op = "potts_graph";
  expect(neighbors.dim() == 2 && neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be (N, k) int64");
  expect(edge_weight.dim() == 2 && edge_weight.size(0) == neighbors.size(0) &&
             edge_weight.size(1) == neighbors.size(1) && edge_weight.scalar_type() == ScalarType::Float,
         op, "edge_weight must be (N, k) float32");
  expect_labels(labels, neighbors.size(0), op);
  expect(neighbors.size(0) < (int64_t{1} << 31) - kPottsBlock, op, "N must be below 2^31 - 16");
  neighbors = torch::stable::contiguous(neighbors);
  edge_weight = torch::stable::contiguous(edge_weight);
  labels = torch::stable::contiguous(labels);
  const PottsLists lists{.neighbors = data<int64_t>(neighbors),
                         .edge_weight = data<float>(edge_weight),
                         .labels = data<int64_t>(labels),
                         .num_rows = neighbors.size(0),
                         .width = neighbors.size(1)};
  Tensor first_slot = empty_like_device(neighbors, {lists.num_blocks() + 1}, ScalarType::Long);
  Graph graph{neighbors, neighbors, edge_weight};
  expect(run_potts_graph(lists, {mutable_data<int64_t>(first_slot), &Graph::allocate, &graph}, torch_threads()), op,
         "neighbours must lie in [0, N], where N (the number of rows) means no edge");
  return {first_slot, graph.other, graph.weight};
}

void expect_graph(const Tensor& first_slot, const Tensor& other, const Tensor& weight, int64_t rows, const char* op) {
  const int64_t blocks = (rows + kPottsBlock - 1) / kPottsBlock;
  expect(first_slot.dim() == 1 && first_slot.size(0) == blocks + 1, op,
         "first_slot must be (blocks of sixteen rows + 1,)");
  expect(other.dim() == 2 && other.size(1) == kPottsBlock && other.scalar_type() == ScalarType::Int, op,
         "other must be (S, 16) int32");
  expect(weight.dim() == 2 && weight.size(1) == kPottsBlock && weight.size(0) == other.size(0) &&
             weight.scalar_type() == ScalarType::Float,
         op, "weight must be (S, 16) float32");
  expect_offsets(first_slot, other.size(0), op, "first_slot", "slots");
  const int32_t* o = data<int32_t>(other);
  bool inside = true;
  for (int64_t e = 0; e < other.numel(); ++e) inside &= 0 <= o[e] && o[e] < blocks * kPottsBlock;
  expect(inside, op, "a row of the graph is out of range");
}

Tensor potts_descent(Tensor values, Tensor log_probs, Tensor labels, Tensor first_slot, Tensor other, Tensor weight,
                     int64_t relaxation, int64_t coupling, double unary_weight, double pairwise_weight, double rate,
                     int64_t num_steps) {
  constexpr auto op = "potts_descent";
  expect(values.dim() == 2 && values.size(1) >= 1 && values.scalar_type() == ScalarType::Float, op,
         "values must be (N, K) float32, K >= 1");
  expect(log_probs.dim() == 2 && log_probs.size(0) == values.size(0) && log_probs.size(1) == values.size(1) &&
             log_probs.scalar_type() == ScalarType::Float,
         op, "log_probs must be (N, K) float32");
  expect((values.size(0) + kPottsBlock) * (values.size(1) + 4) < int64_t{1} << 31, op, "too many values");
  expect_labels(labels, values.size(0), op);
  expect(0 <= relaxation && relaxation < kRelaxations, op, "unknown relaxation");
  expect(0 <= coupling && coupling < kCouplings, op, "unknown coupling");
  log_probs = torch::stable::contiguous(log_probs);
  labels = torch::stable::contiguous(labels);
  first_slot = torch::stable::contiguous(first_slot);
  other = torch::stable::contiguous(other);
  weight = torch::stable::contiguous(weight);
  expect_graph(first_slot, other, weight, values.size(0), op);
  Tensor moved = torch::stable::clone(torch::stable::contiguous(values));
  run_potts_descent({.values = mutable_data<float>(moved),
                     .log_probs = data<float>(log_probs),
                     .labels = data<int64_t>(labels),
                     .graph = {data<int64_t>(first_slot), data<int32_t>(other), data<float>(weight)},
                     .num_rows = values.size(0),
                     .num_classes = values.size(1),
                     .relaxation = static_cast<Relaxation>(relaxation),
                     .coupling = static_cast<Coupling>(coupling),
                     .unary_weight = static_cast<float>(unary_weight),
                     .pairwise_weight = static_cast<float>(pairwise_weight),
                     .rate = static_cast<float>(rate),
                     .num_steps = num_steps},
                    torch_threads());
  return moved;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def("potts_graph(Tensor neighbors, Tensor edge_weight, Tensor labels) -> (Tensor, Tensor, Tensor)");
  m.def(
      "potts_descent(Tensor values, Tensor log_probs, Tensor labels, Tensor first_slot, Tensor other, Tensor weight, "
      "int relaxation, int coupling, float unary_weight, float pairwise_weight, float rate, int num_steps) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("potts_graph", TORCH_BOX(&potts_graph));
  m.impl("potts_descent", TORCH_BOX(&potts_descent));
}

}  // namespace
}  // namespace pcseg::bindings
