// The spatial index of the searches: sixteen points to a leaf, under a hierarchy of boxes of fan-out sixteen.
//
// It adapts to any density, and its memory is linear in the points whatever their extent. All clouds of a batch share one
// hierarchy; a leaf holds points of one cloud, and a search stays within its cloud's range of leaves, so that many small
// clouds cost no more than one large one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aligned_array.h"
#include "parallel.h"

namespace pcseg::PCSEG_ISA {

constexpr int kFanOut = 16, kLogFanOut = 4;

template <class T>
class PointIndex {
 public:
  // coords (num_points, dim) row-major, dim at least 1; offsets (num_clouds + 1) from 0 to num_points < 2^31, ascending.
  // Without boxes above the leaves it is only a grouping of points.
  PointIndex(const T* coords, const int64_t* offsets, int64_t num_clouds, int64_t dim, bool with_boxes,
             const Parallel& parallel);

  int64_t num_leaves() const { return cloud_leaves_.back(); }
  int64_t first_leaf(int64_t cloud) const { return cloud_leaves_[cloud]; }
  int64_t cloud_of_leaf(int64_t leaf) const {
    return std::upper_bound(cloud_leaves_.begin(), cloud_leaves_.end(), leaf) - cloud_leaves_.begin() - 1;
  }

  // dim * 16 coordinates, axis by axis; infinite in places without a point.
  const T* coords(int64_t leaf) const { return coords_.data() + leaf * leaf_size_; }
  // The points' rows in the input, -1 in places without a point; these come last.
  const int32_t* rows(int64_t leaf) const { return rows_.data() + leaf * kFanOut; }

  // Level 0 has the leaves' boxes, level l + 1 those of 16 consecutive boxes of level l.
  int num_levels() const { return static_cast<int>(levels_.size()); }
  // 16 consecutive boxes of a level: 16 lower bounds for each axis, then 16 upper bounds for each axis. A box without
  // points is infinitely far from everything.
  const T* boxes(int level, int64_t group) const { return levels_[level].bounds.data() + group * 2 * leaf_size_; }
  // The lowest row in each of these boxes.
  const int32_t* lowest_rows(int level, int64_t group) const { return levels_[level].lowest_row.data() + group * kFanOut; }

  // Points whose coordinates are not finite: they are in no leaf.
  const std::vector<int32_t>& left_out() const { return left_out_; }

 private:
  struct Level {
    AlignedArray<T> bounds;
    AlignedArray<int32_t> lowest_row;
  };
  void fill_leaf(const T* coords, const int32_t* order, int64_t count, int64_t leaf);
  void add_level(int64_t count, const Parallel& parallel);

  int64_t dim_, leaf_size_;
  std::vector<int64_t> cloud_leaves_;
  AlignedArray<T> coords_;
  AlignedArray<int32_t> rows_;
  std::vector<Level> levels_;
  std::vector<int32_t> left_out_;
};

}  // namespace pcseg::PCSEG_ISA
