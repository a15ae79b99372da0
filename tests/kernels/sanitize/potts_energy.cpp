// potts_energy and its gradient under the address and undefined-behaviour sanitizers, on exactly sized heap arrays.
#include <cmath>
#include <limits>

#include "../../../csrc/kernels/potts_energy.h"
#include "sanitize.h"

using namespace pcseg;

namespace {

template <class T>
void lists(int64_t rows, int64_t classes, int64_t width, bool csr, Relaxation relaxation, const Parallel& parallel) {
  std::mt19937 engine(static_cast<uint32_t>(rows + classes + width));
  std::vector<T> log_probs = uniform<T>(rows * classes, 1);
  for (T& x : log_probs) x = x < T(0.1) ? -std::numeric_limits<T>::infinity() : std::log(x);
  std::vector<int64_t> offsets(rows + 1, 0);
  for (int64_t i = 0; i < rows; ++i) offsets[i + 1] = offsets[i] + (csr ? static_cast<int64_t>(engine() % 40) : width);
  std::vector<int64_t> index(offsets[rows]);
  for (int64_t& j : index) j = static_cast<int64_t>(engine() % static_cast<uint64_t>(rows + 1));
  const std::vector<T> weight = uniform<T>(offsets[rows], 2), grad = uniform<T>(rows, 3);
  std::vector<T> energy(rows), grad_probs(rows * classes), grad_weight(offsets[rows]);
  const PottsEnergy<T> a{.log_probs = log_probs.data(),
                         .edge_index = index.data(),
                         .edge_weight = weight.data(),
                         .edge_offsets = csr ? offsets.data() : nullptr,
                         .num_rows = rows,
                         .num_classes = classes,
                         .width = width,
                         .relaxation = relaxation};
  CHECK(run_potts_energy<T>(a, energy.data(), parallel));
  for (const T e : energy) CHECK(std::isfinite(e));
  run_potts_energy_backward<T>(a, {grad.data(), grad_probs.data(), grad_weight.data()}, parallel);
  for (const T g : grad_probs) CHECK(std::isfinite(g));
  run_potts_energy_backward<T>(a, {grad.data(), nullptr, grad_weight.data()}, parallel);
  run_potts_energy_backward<T>(a, {grad.data(), grad_probs.data(), nullptr}, parallel);
  for (const int64_t wrong : {rows + 1, int64_t{-1}, std::numeric_limits<int64_t>::max(),
                              std::numeric_limits<int64_t>::min()}) {
    if (index.empty()) break;
    index[index.size() / 2] = wrong;
    CHECK(!run_potts_energy<T>(a, energy.data(), parallel));
    run_potts_energy_backward<T>(a, {grad.data(), grad_probs.data(), grad_weight.data()}, parallel);
  }
}

}  // namespace

int main() {
  for (const Parallel& parallel : {Parallel::serial(), three_threads()})
    for (int64_t r = 0; r < kRelaxations; ++r) {
      const auto relaxation = static_cast<Relaxation>(r);
      for (const int64_t classes : {1, 2, 13, 15, 40})
        for (const bool csr : {false, true}) {
          lists<float>(70, classes, 16, csr, relaxation, parallel);
          lists<float>(5, classes, 37, csr, relaxation, parallel);
          lists<double>(33, classes, 5, csr, relaxation, parallel);
        }
      lists<float>(0, 3, 4, false, relaxation, parallel);
      lists<float>(9, 3, 0, false, relaxation, parallel);
      lists<double>(1, 3, 1, false, relaxation, parallel);
    }
  return 0;
}
