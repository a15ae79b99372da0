// The permutohedral lattice of a set of points: which lattice points enclose each of them, with what weights, and which
// lattice points are neighbours. Depends on positions only, so one serves many calls of gaussian_filter.h.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// positions (num_points, dims), min_lattice_dims <= dims <= max_lattice_dims; offsets (num_clouds + 1) ascending from 0 to
// num_points; vertices and weights (num_points, dims + 1), num_points * (dims + 1) < 2^31 - 1. Lattice points are numbered
// in the order in which `vertices` first names them; clouds share none. The weights of a point sum to a constant that
// makes the filter approximate the Gaussian sum.
// `allocate` is called once, with the number M of lattice points, and returns neighbors (dims + 1, M + 1, 2): the next and
// the one before along each lattice direction, M where the lattice has none; row M is all M.
// Returns M, or -1 - row where row is the first point with a coordinate that is not finite or beyond
// +-max_lattice_position (the output is then undefined). The same result for every number of threads.
template <class T>
struct PermutohedralLattice {
  const T* positions;
  const int64_t* offsets;
  int32_t* vertices;
  T* weights;
  int64_t num_points;
  int64_t num_clouds;
  int dims;
  int32_t* (*allocate)(void* context, int64_t num_vertices);
  void* context;
};

PCSEG_KERNEL(int64_t permutohedral_lattice(const PermutohedralLattice<float>& a, const Parallel& parallel))
PCSEG_KERNEL(int64_t permutohedral_lattice(const PermutohedralLattice<double>& a, const Parallel& parallel))

template <class T>
int64_t run_permutohedral_lattice(const PermutohedralLattice<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(permutohedral_lattice, a, parallel);
}

}  // namespace pcseg
