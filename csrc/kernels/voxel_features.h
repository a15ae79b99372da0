// What a voxel keeps of its points: barycentre, mean features, majority label.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// Point i is in voxel voxel_of_point[i]; the points of voxel v are order[point_offsets[v] .. point_offsets[v + 1]], in
// ascending order (grid_subsample). The CPU reads voxel_of_point, and order where the labels of a voxel are many; CUDA
// reads order only. What is read and out of range is found, see the result. The CPU needs 64 bytes and more a voxel.
// out_coords (num_voxels, dims), 1 <= dims <= 8: sums in double in the order of the points, divided by their number, so
// that float32 coordinates far from the origin lose nothing; 0 without points.
// out_feats (num_voxels, channels): sums in F in the order of the points, divided by their number; 0 without points.
// out_labels (num_voxels): the most frequent label >= 0, the lowest of equals; -1 where all are -1 or there is no point.
// feats and labels may be null. Returns whether all rows and voxels that were read lie in range and all labels are >= -1
// (if not, the output is undefined).
template <class C, class F>
struct VoxelFeatures {
  const C* coords;
  const F* feats;
  const int64_t* labels;
  const int64_t* voxel_of_point;
  const int64_t* order;
  const int64_t* point_offsets;  // ascending within [0, rows of order]
  C* out_coords;
  F* out_feats;
  int64_t* out_labels;
  int64_t num_points;
  int64_t num_voxels;
  int64_t dims;
  int64_t channels;
};

enum class VoxelFault : int { none = 0, row = 1, label = 2, voxel = 3 };

#define PCSEG_VOXEL_FEATURES(C, F) \
  PCSEG_KERNEL(VoxelFault voxel_features(const VoxelFeatures<C, F>& a, const Parallel& parallel))
PCSEG_VOXEL_FEATURES(float, float)
PCSEG_VOXEL_FEATURES(float, double)
PCSEG_VOXEL_FEATURES(double, float)
PCSEG_VOXEL_FEATURES(double, double)
#undef PCSEG_VOXEL_FEATURES

template <class C, class F>
VoxelFault run_voxel_features(const VoxelFeatures<C, F>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(voxel_features, a, parallel);
}

}  // namespace pcseg
