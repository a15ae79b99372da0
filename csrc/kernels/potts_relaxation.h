// The relaxations of the Potts model, as CPU and GPU compute them.
//
// Each row of probabilities is turned once into a table row u, such that an edge needs one sum over u:
//   bl   u = p,        s = u_i . u_j,                           P = 1 - s
//   q    u = p,        s = |u_i - u_j|^2,                       P = s / 2
//   nq   u = p / |p|,  s = |u_i - u_j|^2,                       P = s / 2
//   cce  u = p,        s = u_i . u_j,                           P = -log s
//   cd   u = p / |p|,  s = u_i . u_j,                           P = -log s
//   lq   u = p,        s = u_i . u_j + (gini_i + gini_j) / 2,   P = -log s
// gini = sum of p_k (sum of the others): 1 - |p|^2 where p sums to 1, without its cancellation.
//
// Gradient to u_i: dP/ds times u_j (products) or u_i - u_j (differences: dP/d(s/2)).
#pragma once

#include <cstdint>

#include "host_device.h"

namespace pcseg {

enum class Relaxation : int64_t { bl = 0, q = 1, nq = 2, cce = 3, cd = 4, lq = 5 };

constexpr int64_t kRelaxations = 6;

// What the relaxations differ in once the table is made.
enum class PottsEdge { product, difference, log_product, log_product_gini };

PCSEG_HD constexpr PottsEdge edge_of(Relaxation r) {
  return r == Relaxation::bl                             ? PottsEdge::product
         : r == Relaxation::q || r == Relaxation::nq     ? PottsEdge::difference
         : r == Relaxation::cce || r == Relaxation::cd   ? PottsEdge::log_product
                                                         : PottsEdge::log_product_gini;
}
PCSEG_HD constexpr bool has_unit_rows(Relaxation r) { return r == Relaxation::nq || r == Relaxation::cd; }

// Log-probabilities below count as this, and get no gradient: one-hot ends cost a large finite energy.
constexpr int kLogFloor = -30;

// lq keeps gini / 2 behind the probabilities of a table row, and a 1 behind that, which sums the slopes.
PCSEG_HD constexpr int64_t table_columns(int64_t num_classes, Relaxation r) {
  return num_classes + (r == Relaxation::lq ? 2 : 0);
}

// P and its slope for one edge; V: a number, or a vector of them.
template <PottsEdge edge, class V, class Log>
PCSEG_HD inline V edge_value(V s, Log&& log) {
  if constexpr (edge == PottsEdge::product) return 1 - s;
  if constexpr (edge == PottsEdge::difference) return s / 2;
  return -log(s);
}
template <PottsEdge edge, class V>
PCSEG_HD inline V edge_slope(V s) {
  if constexpr (edge == PottsEdge::product) return V{} - 1;
  if constexpr (edge == PottsEdge::difference) return V{} + 1;
  return -1 / s;
}

}  // namespace pcseg
