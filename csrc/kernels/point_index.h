// The spatial index of the searches: sixteen points to a leaf, under a hierarchy of boxes of fan-out sixteen.
//
// It adapts to any density, and its memory is linear in the points whatever their extent. All clouds of a batch share one
// hierarchy; a leaf holds points of one cloud, and a search stays within its cloud's range of leaves, so that many small
// clouds cost no more than one large one. It lies in one piece of memory without pointers, the same for every instruction
// set, so that a caller can keep it and search again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

constexpr int kIndexFanOut = 16, kLogIndexFanOut = 4;

// Where the parts of an index lie, in bytes from its beginning: follows from sizes alone.
struct PointIndexLayout {
  static constexpr int kMaxLevels = 8;  // 16^8 is beyond 2^31 leaves
  size_t coords, rows, bounds[kMaxLevels], lowest_row[kMaxLevels], bytes;

  // Without boxes the index is only a grouping of points.
  PointIndexLayout(int64_t num_points, int64_t num_clouds, int64_t dim, size_t coord_bytes, bool with_boxes) {
    const int64_t most_leaves = num_points / kIndexFanOut + std::min(num_points, num_clouds);
    bytes = 0;
    take(num_clouds + 1, sizeof(int64_t));
    coords = take(most_leaves * kIndexFanOut * dim, coord_bytes);
    rows = take(most_leaves * kIndexFanOut, sizeof(int32_t));
    for (int64_t level = 0, count = with_boxes ? most_leaves : 0; count > 0; ++level) {
      const int64_t groups = (count + kIndexFanOut - 1) / kIndexFanOut;
      bounds[level] = take(groups * kIndexFanOut * dim * 2, coord_bytes);
      lowest_row[level] = take(groups * kIndexFanOut, sizeof(int32_t));
      count = groups == 1 ? 0 : groups;
    }
  }

 private:
  size_t take(int64_t count, size_t each) {
    const size_t begin = bytes;
    bytes += (static_cast<size_t>(count) * each + 63) / 64 * 64;
    return begin;
  }
};

// coords (num_points, dim) row-major, dim at least 1; offsets (num_clouds + 1) from 0 to num_points < 2^31, ascending.
// memory: PointIndexLayout's bytes, aligned to 64. Points whose coordinates are not finite are in no leaf.
template <class T>
struct PointIndexInput {
  const T* coords;
  const int64_t* offsets;
  int64_t num_points;
  int64_t num_clouds;
  int64_t dim;
  bool with_boxes;
  unsigned char* memory;
};

PCSEG_KERNEL(void build_point_index(const PointIndexInput<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void build_point_index(const PointIndexInput<double>& a, const Parallel& parallel))

template <class T>
size_t point_index_bytes(int64_t num_points, int64_t num_clouds, int64_t dim) {
  return PointIndexLayout(num_points, num_clouds, dim, sizeof(T), true).bytes;
}
template <class T>
void run_build_point_index(const PointIndexInput<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(build_point_index, a, parallel);
}

namespace PCSEG_ISA {

constexpr int kFanOut = kIndexFanOut, kLogFanOut = kLogIndexFanOut;

// What an index holds.
template <class T>
class PointIndex {
 public:
  PointIndex(const unsigned char* memory, int64_t num_points, int64_t num_clouds, int64_t dim, bool with_boxes)
      : memory_(memory),
        layout_(num_points, num_clouds, dim, sizeof(T), with_boxes),
        cloud_leaves_(reinterpret_cast<const int64_t*>(memory)),
        num_clouds_(num_clouds),
        leaf_size_(dim * kFanOut) {}

  int64_t num_leaves() const { return cloud_leaves_[num_clouds_]; }
  int64_t first_leaf(int64_t cloud) const { return cloud_leaves_[cloud]; }
  int64_t cloud_of_leaf(int64_t leaf) const {
    return std::upper_bound(cloud_leaves_, cloud_leaves_ + num_clouds_ + 1, leaf) - cloud_leaves_ - 1;
  }

  // dim * 16 coordinates, axis by axis; infinite in places without a point.
  const T* coords(int64_t leaf) const { return at<T>(layout_.coords) + leaf * leaf_size_; }
  // The points' rows in the input, -1 in places without a point; these come last.
  const int32_t* rows(int64_t leaf) const { return at<int32_t>(layout_.rows) + leaf * kFanOut; }

  // Level 0 has the leaves' boxes, level l + 1 those of 16 consecutive boxes of level l; the last is one group.
  // 16 consecutive boxes of a level: 16 lower bounds for each axis, then 16 upper bounds for each axis. A box without
  // points is infinitely far from everything.
  const T* boxes(int level, int64_t group) const { return at<T>(layout_.bounds[level]) + group * 2 * leaf_size_; }
  // The lowest row in each of these boxes.
  const int32_t* lowest_rows(int level, int64_t group) const {
    return at<int32_t>(layout_.lowest_row[level]) + group * kFanOut;
  }

 private:
  template <class U>
  const U* at(size_t offset) const {
    return reinterpret_cast<const U*>(memory_ + offset);
  }

  const unsigned char* memory_;
  PointIndexLayout layout_;
  const int64_t* cloud_leaves_;
  int64_t num_clouds_, leaf_size_;
};

}  // namespace PCSEG_ISA
}  // namespace pcseg
