#include "point_index.h"

#include <limits>

#include "point_order.h"
#include "simd.h"

namespace pcseg::PCSEG_ISA {

template <class T>
PointIndex<T>::PointIndex(const T* coords, const int64_t* offsets, int64_t num_clouds, int64_t dim, bool with_boxes,
                          const Parallel& parallel)
    : dim_(dim), leaf_size_(dim * kFanOut), cloud_leaves_(num_clouds + 1) {
  const PointOrder order = order_points(coords, offsets, num_clouds, dim, parallel);
  for (int64_t cloud = 0; cloud < num_clouds; ++cloud) {
    const int64_t finite = order.num_finite[cloud];
    cloud_leaves_[cloud + 1] = cloud_leaves_[cloud] + (finite + kFanOut - 1) / kFanOut;
    for (int64_t i = offsets[cloud] + finite; i < offsets[cloud + 1]; ++i) left_out_.push_back(order.rows[i]);
  }
  coords_ = AlignedArray<T>(num_leaves() * leaf_size_);
  rows_ = AlignedArray<int32_t>(num_leaves() * kFanOut);
  parallel.ranges(num_leaves(), 256, [&](int64_t begin, int64_t end) {
    int64_t cloud = cloud_of_leaf(begin);
    for (int64_t leaf = begin; leaf < end; ++leaf) {
      while (leaf >= first_leaf(cloud + 1)) ++cloud;
      const int64_t first = (leaf - first_leaf(cloud)) * kFanOut;
      fill_leaf(coords, order.rows.data() + offsets[cloud] + first,
                std::min<int64_t>(kFanOut, order.num_finite[cloud] - first), leaf);
    }
  });
  if (!with_boxes || num_leaves() == 0) return;
  for (int64_t count = num_leaves();; count = (count + kFanOut - 1) / kFanOut) {
    add_level(count, parallel);
    if (count <= kFanOut) return;
  }
}

template <class T>
void PointIndex<T>::fill_leaf(const T* coords, const int32_t* order, int64_t count, int64_t leaf) {
  T* to = coords_.data() + leaf * leaf_size_;
  int32_t* rows = rows_.data() + leaf * kFanOut;
  for (int64_t i = 0; i < count; ++i) {
    rows[i] = order[i];
    for (int64_t d = 0; d < dim_; ++d) to[d * kFanOut + i] = coords[order[i] * dim_ + d];
  }
  for (int64_t i = count; i < kFanOut; ++i) {
    rows[i] = -1;
    for (int64_t d = 0; d < dim_; ++d) to[d * kFanOut + i] = std::numeric_limits<T>::infinity();
  }
}

template <class T>
void PointIndex<T>::add_level(int64_t count, const Parallel& parallel) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const int level = num_levels();
  const int64_t groups = (count + kFanOut - 1) / kFanOut;
  levels_.push_back({AlignedArray<T>(groups * 2 * leaf_size_), AlignedArray<int32_t>(groups * kFanOut)});
  T* bounds = levels_.back().bounds.data();
  int32_t* lowest_row = levels_.back().lowest_row.data();
  parallel.ranges(groups, 64, [&](int64_t begin, int64_t end) {
    for (int64_t box = begin * kFanOut; box < end * kFanOut; ++box) {
      T* low = bounds + box / kFanOut * 2 * leaf_size_ + box % kFanOut;
      T* high = low + leaf_size_;
      for (int64_t d = 0; d < dim_; ++d) {
        Lanes<T> lower = Lanes<T>::fill(kInfinity), upper = Lanes<T>::fill(-kInfinity);
        if (box < count && level == 0) {
          const Lanes<T> x = Lanes<T>::load(coords(box) + d * kFanOut);
          lower = x;
          upper = finite_or(x, -kInfinity);
        } else if (box < count) {
          lower = Lanes<T>::load(boxes(level - 1, box) + d * kFanOut);
          upper = Lanes<T>::load(boxes(level - 1, box) + leaf_size_ + d * kFanOut);
        }
        low[d * kFanOut] = smallest(lower);
        high[d * kFanOut] = largest(upper);
      }
      uint32_t lowest = std::numeric_limits<int32_t>::max();  // -1, where there is no point, is large as unsigned
      const int32_t* below = level == 0 ? rows(box) : lowest_rows(level - 1, box);
      for (int i = 0; i < kFanOut && box < count; ++i) lowest = std::min(lowest, static_cast<uint32_t>(below[i]));
      lowest_row[box] = static_cast<int32_t>(lowest);
    }
  });
}

template class PointIndex<float>;
template class PointIndex<double>;

}  // namespace pcseg::PCSEG_ISA
