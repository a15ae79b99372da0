// An order of points in which near points are near each other: the base of the spatial index.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_array.h"
#include "parallel.h"

namespace pcseg::PCSEG_ISA {

// The rows of each cloud, cloud after cloud: first those with finite coordinates along a Hilbert curve that is refined
// wherever more than a leaf's points share a cell, so that any extent and any density will do; then the others, ascending.
// Points at one place come in ascending order.
struct PointOrder {
  AlignedArray<int32_t> rows;       // (num_points)
  std::vector<int64_t> num_finite;  // (num_clouds)
};

// coords (num_points, dim) row-major, dim at least 1; offsets (num_clouds + 1) from 0 to num_points < 2^31, ascending.
template <class T>
PointOrder order_points(const T* coords, const int64_t* offsets, int64_t num_clouds, int64_t dim,
                        const Parallel& parallel);

}  // namespace pcseg::PCSEG_ISA
