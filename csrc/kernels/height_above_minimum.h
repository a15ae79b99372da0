// Height of points above the lowest point around them: a stand-in for the height above ground.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// The points are grouped by square cells of their first two coordinates, as grid_subsample with cell_size groups them:
// cell_of_point (num_points), order (num_points), point_offsets (num_cells + 1), cloud_offsets (num_clouds + 1) the
// cells of each cloud. height[i] = coords[i, 2] - the least coords[j, 2] over the points j of the same cloud in i's
// cell and the eight around it. coords (num_points, 3).
// Returns whether the grouping's indices lie in range (if not, the output is undefined).
template <class T>
struct HeightAboveMinimum {
  const T* coords;
  const int64_t* cell_of_point;
  const int64_t* order;
  const int64_t* point_offsets;
  const int64_t* cloud_offsets;
  T* height;
  int64_t num_points;
  int64_t num_cells;
  int64_t num_clouds;
  T cell_size;
};

PCSEG_KERNEL(bool height_above_minimum(const HeightAboveMinimum<float>& a, const Parallel& parallel))
PCSEG_KERNEL(bool height_above_minimum(const HeightAboveMinimum<double>& a, const Parallel& parallel))

template <class T>
bool run_height_above_minimum(const HeightAboveMinimum<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(height_above_minimum, a, parallel);
}

}  // namespace pcseg
