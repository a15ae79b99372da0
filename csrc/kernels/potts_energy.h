// Pairwise Potts energy of soft labels over neighbour lists. Nothing of size (edges, classes) ever exists.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"
#include "potts_relaxation.h"

namespace pcseg {

// energy[i] = sum over the edges e of row i of edge_weight[e] * P(row i, row edge_index[e]).
//
// log_probs (num_rows, num_classes), num_classes >= 1, each row the logarithm of probabilities that sum to 1. Row i has
// the edges edge_offsets[i] .. edge_offsets[i + 1] - 1, or i * width .. (i + 1) * width - 1 where edge_offsets is null.
// edge_index in [0, num_rows], num_rows: no edge, whatever its weight. All arrays dense and row-major.
template <class T>
struct PottsEnergy {
  const T* log_probs;
  const int64_t* edge_index;
  const T* edge_weight;
  const int64_t* edge_offsets;
  int64_t num_rows;
  int64_t num_classes;
  int64_t width;
  Relaxation relaxation;

  int64_t first_edge(int64_t row) const { return edge_offsets ? edge_offsets[row] : row * width; }
  int64_t num_edges() const { return first_edge(num_rows); }
};

// Gradients of the sum of grad_energy * energy, null where not wanted; log_probs gets them from both ends of each edge.
// The shapes are those of the inputs; both are written whole. No result depends on the number of threads.
template <class T>
struct PottsEnergyGradients {
  const T* grad_energy;
  T* log_probs;
  T* edge_weight;
};

// False: an index lay outside [0, num_rows], and was taken for "no edge".
PCSEG_KERNEL(bool potts_energy(const PottsEnergy<float>& a, float* energy, const Parallel& parallel))
PCSEG_KERNEL(bool potts_energy(const PottsEnergy<double>& a, double* energy, const Parallel& parallel))
PCSEG_KERNEL(void potts_energy_backward(const PottsEnergy<float>& a, const PottsEnergyGradients<float>& g,
                                        const Parallel& parallel))
PCSEG_KERNEL(void potts_energy_backward(const PottsEnergy<double>& a, const PottsEnergyGradients<double>& g,
                                        const Parallel& parallel))

template <class T>
bool run_potts_energy(const PottsEnergy<T>& a, T* energy, const Parallel& parallel) {
  PCSEG_DISPATCH(potts_energy, a, energy, parallel);
}
template <class T>
void run_potts_energy_backward(const PottsEnergy<T>& a, const PottsEnergyGradients<T>& g, const Parallel& parallel) {
  PCSEG_DISPATCH(potts_energy_backward, a, g, parallel);
}

}  // namespace pcseg
