// Points to voxels: cells floor(coord / voxel_size) with the origin at 0, voxels in lexicographic order of (cloud, cell).
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

constexpr int max_grid_dims = 8;

// coords (num_points, dims), 1 <= dims <= max_grid_dims, num_points < 2^31; offsets (num_clouds + 1) ascending from 0 to
// num_points; voxel_size > 0 as a T, and the division is T's. voxel_of_point (num_points): dense, in order.
// Returns the number of voxels, or -1 - row where row is the first point with a coordinate that is not finite or whose
// cell does not fit into int32 (the output is then undefined). Memory O(num_points + num_clouds), whatever the extent.
template <class T>
struct GridVoxels {
  const T* coords;
  const int64_t* offsets;
  int64_t* voxel_of_point;
  int64_t num_points;
  int64_t num_clouds;
  int dims;
  T voxel_size;
};

// Points by voxel: order (num_points) sorts the points by voxel, stable; the points of voxel v are
// order[point_offsets[v] .. point_offsets[v + 1]]; the voxels of cloud b are voxel_offsets[b] .. voxel_offsets[b + 1].
// voxel_of_point as GridVoxels leaves it.
struct GridOrder {
  const int64_t* voxel_of_point;
  const int64_t* offsets;
  int64_t* order;
  int64_t* point_offsets;  // (num_voxels + 1)
  int64_t* voxel_offsets;  // (num_clouds + 1)
  int64_t num_points;
  int64_t num_voxels;
  int64_t num_clouds;
};

// Both at once, as a CPU does it: for one start of threads, and the points are counted while they get their voxels.
template <class T>
struct GridSubsample {
  GridVoxels<T> voxels;
  int64_t* order;
  int64_t* voxel_offsets;
  // Asked once for point_offsets when their number is known, on the calling thread. Not where a row is bad.
  int64_t* (*point_offsets)(void* context, int64_t size);
  void* context;
};

// Returns what GridVoxels says.
PCSEG_KERNEL(int64_t grid_subsample(const GridSubsample<float>& a, const Parallel& parallel))
PCSEG_KERNEL(int64_t grid_subsample(const GridSubsample<double>& a, const Parallel& parallel))

template <class T>
int64_t run_grid_subsample(const GridSubsample<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(grid_subsample, a, parallel);
}

}  // namespace pcseg
