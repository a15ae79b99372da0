// The permutohedral lattice of a set of points: which lattice points enclose each of them, with what weights, and which
// lattice points are neighbours. Depends on positions only, so one serves many calls of gaussian_filter.h.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// On a CPU the entries of `vertices` are listed by groups of 2^group_shift consecutive lattice points, many enough that
// a group's sums stay in a core's cache while it reads its entries in the order of the points. Depends on the number of
// lattice points alone.
inline int lattice_group_shift(int64_t num_vertices) {
  int shift = 0;
  while (shift < 10 && (num_vertices >> shift) > 32) ++shift;
  return shift;
}

// What is known only when the lattice points are counted. With M of them in G groups:
// entry_offsets (G + 1), entries (num_points * (dims + 1)): the entries of `vertices` that name a lattice point of group g
// are entries[entry_offsets[g]] .. entries[entry_offsets[g + 1] - 1], ascending; entry = point * (dims + 1) + colour.
// neighbors (dims + 1, M + 1, 2): the next and the one before along each lattice direction, M where the lattice has none;
// row M is all M.
struct LatticeLinks {
  int64_t* entry_offsets;
  int32_t* entries;
  int32_t* neighbors;
};

// positions (num_points, dims), min_lattice_dims <= dims <= max_lattice_dims; offsets (num_clouds + 1) ascending from 0 to
// num_points; vertices and weights (num_points, dims + 1), num_points * (dims + 1) < 2^31 - 1. Lattice points are numbered
// in the order in which the entries first name them; clouds share none. The weights of a point sum to a constant that
// makes the filter approximate the Gaussian sum.
// `allocate` is called once, with M and G. Returns M, or -1 - row where row is the first point with a coordinate that is not
// finite or beyond +-max_lattice_position (the output is then undefined). The same result for every number of threads.
template <class T>
struct PermutohedralLattice {
  const T* positions;
  const int64_t* offsets;
  int32_t* vertices;
  T* weights;
  int64_t num_points;
  int64_t num_clouds;
  int dims;
  LatticeLinks (*allocate)(void* context, int64_t num_vertices, int64_t num_groups);
  void* context;
};

PCSEG_KERNEL(int64_t permutohedral_lattice(const PermutohedralLattice<float>& a, const Parallel& parallel))
PCSEG_KERNEL(int64_t permutohedral_lattice(const PermutohedralLattice<double>& a, const Parallel& parallel))

template <class T>
int64_t run_permutohedral_lattice(const PermutohedralLattice<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(permutohedral_lattice, a, parallel);
}

}  // namespace pcseg
