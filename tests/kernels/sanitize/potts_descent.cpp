// potts_graph and potts_descent under the sanitizers, on exactly sized heap arrays.
#include <cmath>
#include <limits>

#include "../../../csrc/kernels/potts_descent.h"
#include "sanitize.h"

using namespace pcseg;

namespace {

struct Graph {
  std::vector<int64_t> first_slot;
  std::vector<int32_t> other;
  std::vector<float> weight;

  static void allocate(void* context, int64_t slots, int32_t** other, float** weight) {
    Graph& graph = *static_cast<Graph*>(context);
    graph.other.resize(slots * kPottsBlock);
    graph.weight.resize(slots * kPottsBlock);
    *other = graph.other.data();
    *weight = graph.weight.data();
  }
};

void lists(int64_t rows, int64_t classes, int64_t width, Relaxation relaxation, const Parallel& parallel) {
  std::mt19937 engine(static_cast<uint32_t>(rows + classes + width));
  std::vector<int64_t> neighbors(rows * width), labels(rows);
  for (int64_t& j : neighbors) j = static_cast<int64_t>(engine() % static_cast<uint64_t>(rows + 1));
  for (int64_t i = 0; i < rows; ++i) labels[i] = i % 5 ? -1 : i % classes;
  const std::vector<float> edge_weight = uniform<float>(rows * width, 1);
  const PottsLists a{neighbors.data(), edge_weight.data(), labels.data(), rows, width};
  Graph graph{std::vector<int64_t>(a.num_blocks() + 1), {}, {}};
  const PottsGraphOutput out{graph.first_slot.data(), &Graph::allocate, &graph};
  CHECK(run_potts_graph(a, out, parallel));

  std::vector<float> log_probs = uniform<float>(rows * classes, 2);
  for (float& x : log_probs) x = x < 0.1f ? -std::numeric_limits<float>::infinity() : std::log(x);
  for (int64_t c = 0; c < kCouplings; ++c) {
    std::vector<float> values = uniform<float>(rows * classes, 3);
    run_potts_descent({values.data(), log_probs.data(), labels.data(),
                       {graph.first_slot.data(), graph.other.data(), graph.weight.data()}, rows, classes, relaxation,
                       static_cast<Coupling>(c), 0.3f, 2.0f, 0.01f, 3},
                      parallel);
    for (const float x : values) CHECK(std::isfinite(x));
  }

  for (const int64_t wrong : {rows + 1, int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    if (neighbors.empty()) break;
    neighbors[neighbors.size() / 2] = wrong;
    CHECK(!run_potts_graph(a, out, parallel));
  }
}

}  // namespace

int main() {
  for (const Parallel& parallel : {Parallel::serial(), three_threads()})
    for (int64_t r = 0; r < kRelaxations; ++r) {
      const auto relaxation = static_cast<Relaxation>(r);
      for (const int64_t classes : {1, 3, 4, 7, 13, 16, 18, 25}) lists(37, classes, 5, relaxation, parallel);
      lists(5000, 3, 4, relaxation, parallel);
      lists(0, 3, 4, relaxation, parallel);
      lists(9, 3, 0, relaxation, parallel);
      lists(1, 2, 1, relaxation, parallel);
    }
}
