#include "point_index.h"

#include <limits>

#include "point_order.h"
#include "simd.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
class Builder {
 public:
  Builder(const PointIndexInput<T>& a, const Parallel& parallel)
      : a_(a),
        parallel_(parallel),
        layout_(a.num_points, a.num_clouds, a.dim, sizeof(T), a.with_boxes),
        index_(a.memory, a.num_points, a.num_clouds, a.dim, a.with_boxes),
        leaf_size_(a.dim * kFanOut) {}

  void build() {
    const PointOrder order = order_points(a_.coords, a_.offsets, a_.num_clouds, a_.dim, parallel_);
    auto* cloud_leaves = reinterpret_cast<int64_t*>(a_.memory);
    cloud_leaves[0] = 0;
    for (int64_t cloud = 0; cloud < a_.num_clouds; ++cloud)
      cloud_leaves[cloud + 1] = cloud_leaves[cloud] + (order.num_finite[cloud] + kFanOut - 1) / kFanOut;
    const int64_t leaves = index_.num_leaves();
    parallel_.ranges(leaves, 256, [&](int64_t begin, int64_t end) {
      int64_t cloud = index_.cloud_of_leaf(begin);
      for (int64_t leaf = begin; leaf < end; ++leaf) {
        while (leaf >= index_.first_leaf(cloud + 1)) ++cloud;
        const int64_t first = (leaf - index_.first_leaf(cloud)) * kFanOut;
        fill_leaf(order.rows.data() + a_.offsets[cloud] + first,
                  std::min<int64_t>(kFanOut, order.num_finite[cloud] - first), leaf);
      }
    });
    if (!a_.with_boxes || leaves == 0) return;
    for (int64_t level = 0, count = leaves;; ++level, count = (count + kFanOut - 1) / kFanOut) {
      add_level(static_cast<int>(level), count);
      if (count <= kFanOut) return;
    }
  }

 private:
  template <class U>
  U* at(size_t offset) const {
    return reinterpret_cast<U*>(a_.memory + offset);
  }

  void fill_leaf(const int32_t* order, int64_t count, int64_t leaf) const {
    T* to = at<T>(layout_.coords) + leaf * leaf_size_;
    int32_t* rows = at<int32_t>(layout_.rows) + leaf * kFanOut;
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = order[i];
      for (int64_t d = 0; d < a_.dim; ++d) to[d * kFanOut + i] = a_.coords[order[i] * a_.dim + d];
    }
    for (int64_t i = count; i < kFanOut; ++i) {
      rows[i] = -1;
      for (int64_t d = 0; d < a_.dim; ++d) to[d * kFanOut + i] = std::numeric_limits<T>::infinity();
    }
  }

  void add_level(int level, int64_t count) const {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    const int64_t groups = (count + kFanOut - 1) / kFanOut;
    T* bounds = at<T>(layout_.bounds[level]);
    int32_t* lowest_row = at<int32_t>(layout_.lowest_row[level]);
    parallel_.ranges(groups, 64, [&](int64_t begin, int64_t end) {
      for (int64_t box = begin * kFanOut; box < end * kFanOut; ++box) {
        T* low = bounds + box / kFanOut * 2 * leaf_size_ + box % kFanOut;
        T* high = low + leaf_size_;
        for (int64_t d = 0; d < a_.dim; ++d) {
          Lanes<T> lower = Lanes<T>::fill(kInfinity), upper = Lanes<T>::fill(-kInfinity);
          if (box < count && level == 0) {
            const Lanes<T> x = Lanes<T>::load(index_.coords(box) + d * kFanOut);
            lower = x;
            upper = finite_or(x, -kInfinity);
          } else if (box < count) {
            lower = Lanes<T>::load(index_.boxes(level - 1, box) + d * kFanOut);
            upper = Lanes<T>::load(index_.boxes(level - 1, box) + leaf_size_ + d * kFanOut);
          }
          low[d * kFanOut] = smallest(lower);
          high[d * kFanOut] = largest(upper);
        }
        uint32_t lowest = std::numeric_limits<int32_t>::max();  // -1, where there is no point, is large as unsigned
        const int32_t* below = level == 0 ? index_.rows(box) : index_.lowest_rows(level - 1, box);
        for (int i = 0; i < kFanOut && box < count; ++i) lowest = std::min(lowest, static_cast<uint32_t>(below[i]));
        lowest_row[box] = static_cast<int32_t>(lowest);
      }
    });
  }

  const PointIndexInput<T>& a_;
  const Parallel& parallel_;
  const PointIndexLayout layout_;
  const PointIndex<T> index_;
  const int64_t leaf_size_;
};

}  // namespace

void build_point_index(const PointIndexInput<float>& a, const Parallel& parallel) { Builder(a, parallel).build(); }
void build_point_index(const PointIndexInput<double>& a, const Parallel& parallel) { Builder(a, parallel).build(); }

}  // namespace pcseg::PCSEG_ISA
