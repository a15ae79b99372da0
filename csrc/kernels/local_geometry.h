// The shape of neighbourhoods: covariance, its eigenvalues, the normal, and features of them.
#pragma once

#include <cstdint>

#include "isa.h"
#include "local_shape.h"
#include "parallel.h"

namespace pcseg {

// For every list: the covariance (divided by their number) of the listed rows of coords, in double relative to the
// first of them. coords (num_rows, dims), dims 2 or 3; neighbors (num_lists, width) within [0, num_rows], num_rows for
// none. eigenvalues (num_lists, dims) descending, not negative; normals (num_lists, dims): unit eigenvector of the
// least one, its last nonzero component positive; features (num_lists, num_shape_features), see local_shape.h.
// A list without two distinct points has eigenvalues 0 and the normal (0, .., 0, 1).
// Returns whether all neighbours lie within; others are left out.
template <class T>
struct LocalGeometry {
  const T* coords;
  const int64_t* neighbors;
  T* eigenvalues;
  T* normals;
  T* features;
  int64_t num_rows;
  int64_t num_lists;
  int64_t width;
  int dims;
};

PCSEG_KERNEL(bool local_geometry(const LocalGeometry<float>& a, const Parallel& parallel))
PCSEG_KERNEL(bool local_geometry(const LocalGeometry<double>& a, const Parallel& parallel))

template <class T>
bool run_local_geometry(const LocalGeometry<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(local_geometry, a, parallel);
}

}  // namespace pcseg
