// Gradient descent on soft labels: a Potts energy between neighbours, and a coupling of each row with a prediction.
#pragma once

#include "potts_graph.h"
#include "potts_relaxation.h"

namespace pcseg {

enum class Coupling : int64_t { ce = 0, rce = 1, cce = 2 };

constexpr int64_t kCouplings = 3;

// values (num_rows, num_classes) move by num_steps steps of the length `rate` down the gradient of
//
//     unary_weight * sum over rows of H(y, q)  +  pairwise_weight * sum over edges of weight * P(y_i, y_j),
//
// y = softmax(values), q = exp(log_probs), H the coupling, P the relaxation. Rows with a label are one-hot; their values
// stay. Probabilities below exp(-30) count as that and get no gradient from the edges. All arrays dense and row-major.
// No result depends on the number of threads.
struct PottsDescent {
  float* values;
  const float* log_probs;
  const int64_t* labels;  // in [0, num_classes), or below 0 where there is none
  PottsGraph graph;
  int64_t num_rows;
  int64_t num_classes;
  Relaxation relaxation;
  Coupling coupling;
  float unary_weight;
  float pairwise_weight;
  float rate;
  int64_t num_steps;
};

PCSEG_KERNEL(void potts_descent(const PottsDescent& a, const Parallel& parallel))

inline void run_potts_descent(const PottsDescent& a, const Parallel& parallel) {
  PCSEG_DISPATCH(potts_descent, a, parallel);
}

}  // namespace pcseg
