// Every leaf of 16 points knows its box and its farthest point, and so does every group of 16 boxes above it. A new
// sample changes the distances only in leaves whose box is nearer to it than their farthest point is to the samples
// before, and the next sample stands at the top.
#include "farthest_point_sample.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "aligned_array.h"
#include "point_order.h"
#include "simd.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int kMaxDim = 8, kFanOut = kLaneCount, kLogFanOut = 4;
constexpr int64_t kMaxTopGroups = 4;
constexpr int64_t kFewSamples = 32;         // up to here the order costs more than it saves
constexpr int64_t kLargeCloud = 4096;        // points: a task of its own
constexpr int64_t kCloudsPerTask = 16;
constexpr int64_t kLeavesPerThread = 4096;  // fewer are not worth waking one

// D: number of coordinates, 0 for any up to kMaxDim.
template <class T, int D>
class Sampler {
 public:
  explicit Sampler(const FarthestPointSample<T>& a) : a_(a) {}

  // rows: the cloud's, near ones near each other; sorts them within each leaf.
  void run(int64_t cloud, int32_t* rows, const Parallel& parallel) {
    const int64_t count = a_.sample_offsets[cloud + 1] - a_.sample_offsets[cloud];
    if (count == 0) return;
    rows_ = rows;
    num_points_ = a_.offsets[cloud + 1] - a_.offsets[cloud];
    reserve();
    build(static_cast<int32_t>(a_.offsets[cloud] + a_.start[cloud]), parallel);
    int64_t* samples = a_.samples + a_.sample_offsets[cloud];
    Far best{0, start_};
    for (int64_t i = 0; i < count; ++i) {
      samples[i] = rows_[best.place];
      if (i + 1 < count) best = add(best.place, parallel);
    }
  }

 private:
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr T kChosen = -1;  // below every distance; also in places without a point
  static constexpr int kDims = D ? D : kMaxDim;
  static constexpr int kMaxLevels = 8;

  // A point by its place in the order, and its squared distance to the samples.
  struct Far {
    T sq_dist;
    int32_t place;
  };
  // The boxes of a level, 16 to a group: bounds as in the searches' index, and the farthest point below each box.
  struct Level {
    int64_t groups;
    T* bounds;       // (groups, 2 * dim, 16)
    T* far;          // (groups, 16)
    int32_t* place;  // (groups, 16)
    int32_t* touched;
  };

  int dim() const { return D ? D : static_cast<int>(a_.dim); }
  int64_t leaf_size() const { return (dim() + 1) * kFanOut; }
  T* coords(int64_t leaf) const { return leaves_ + leaf * leaf_size(); }

  void reserve() {
    num_leaves_ = (num_points_ + kFanOut - 1) / kFanOut;
    num_levels_ = 0;
    int64_t groups = 0, boxes = num_leaves_;
    do {
      boxes = (boxes + kFanOut - 1) / kFanOut;
      levels_[num_levels_++].groups = boxes;
      groups += boxes;
    } while (boxes > kMaxTopGroups);
    const int64_t reals = num_leaves_ * leaf_size() + groups * (2 * dim() + 1) * kFanOut;
    const int64_t ints = 2 * groups * kFanOut + kMaxLevels * kFanOut;
    if (reals > reals_size_) reals_ = AlignedArray<T>(reals_size_ = reals);
    if (ints > ints_size_) ints_ = AlignedArray<int32_t>(ints_size_ = ints);
    T* real = reals_.data();
    int32_t* integer = ints_.data();
    leaves_ = real;
    real += num_leaves_ * leaf_size();
    for (int l = 0; l < num_levels_; ++l) {
      Level& level = levels_[l];
      level.bounds = real;
      level.far = level.bounds + level.groups * 2 * dim() * kFanOut;
      real = level.far + level.groups * kFanOut;
      level.place = integer;
      level.touched = level.place + level.groups * kFanOut;  // one a box, and room for a whole vector
      integer = level.touched + (level.groups + 1) * kFanOut;
    }
  }

  void build(int32_t start, const Parallel& parallel) {
    parallel.ranges(levels_[0].groups, 64, [&](int64_t begin, int64_t end) {
      for (int64_t box = begin * kFanOut; box < end * kFanOut; ++box) build_leaf(box, start);
    });
    for (int l = 1; l < num_levels_; ++l)
      for (int64_t box = 0; box < levels_[l].groups * kFanOut; ++box) build_box(l, box);
  }

  void set_bounds(const Level& level, int64_t box, int d, T low, T high) const {
    T* bounds = level.bounds + box / kFanOut * 2 * dim() * kFanOut + box % kFanOut;
    bounds[d * kFanOut] = low;
    bounds[(dim() + d) * kFanOut] = high;
  }

  void build_leaf(int64_t leaf, int32_t start) {
    const Level& level = levels_[0];
    const int64_t first = leaf * kFanOut, count = std::clamp<int64_t>(num_points_ - first, 0, kFanOut);
    level.far[leaf] = count ? kInfinity : kChosen;
    level.place[leaf] = static_cast<int32_t>(first);
    if (count == 0) {
      for (int d = 0; d < dim(); ++d) set_bounds(level, leaf, d, kInfinity, -kInfinity);
      return;
    }
    // Of equals the lowest row counts: it is the first in its leaf.
    int32_t* rows = rows_ + first;
    int32_t sorted[kFanOut];
    Lanes<int32_t> rank = Lanes<int32_t>::fill(0), row;
    std::fill_n(std::copy_n(rows, count, sorted), kFanOut - count, std::numeric_limits<int32_t>::max());
    row = Lanes<int32_t>::load(sorted);
    for (int64_t i = 0; i < count; ++i) rank = count_greater(rank, row, Lanes<int32_t>::fill(sorted[i]));
    int32_t ranks[kFanOut];
    rank.store(ranks);
    for (int64_t i = 0; i < count; ++i) rows[ranks[i]] = sorted[i];

    T* to = coords(leaf);
    for (int64_t i = 0; i < count; ++i) {
      if (rows[i] == start) start_ = static_cast<int32_t>(first + i);
      const T* from = a_.coords + int64_t{rows[i]} * dim();
      for (int d = 0; d < dim(); ++d) to[d * kFanOut + i] = from[d];
      to[dim() * kFanOut + i] = kInfinity;
    }
    for (int64_t i = count; i < kFanOut; ++i) {
      for (int d = 0; d < dim(); ++d) to[d * kFanOut + i] = to[d * kFanOut];
      to[dim() * kFanOut + i] = kChosen;
    }
    for (int d = 0; d < dim(); ++d) {
      const Lanes<T> x = Lanes<T>::load(to + d * kFanOut);
      set_bounds(level, leaf, d, smallest(x), largest(x));
    }
  }

  void build_box(int l, int64_t box) {
    const Level &level = levels_[l], &below = levels_[l - 1];
    const bool present = box < below.groups;
    const T* bounds = below.bounds + box * 2 * dim() * kFanOut;
    for (int d = 0; d < dim(); ++d)
      set_bounds(level, box, d, present ? smallest(Lanes<T>::load(bounds + d * kFanOut)) : kInfinity,
                 present ? largest(Lanes<T>::load(bounds + (dim() + d) * kFanOut)) : -kInfinity);
    level.far[box] = present ? kInfinity : kChosen;
    level.place[box] = static_cast<int32_t>(box << kLogFanOut * (l + 1));
  }

  struct Point {
    Lanes<T> x[kDims];
  };

  // Rounding keeps order, and every distance is computed alike: no point in a box is nearer than the box, bit for bit.
  PCSEG_INLINE Lanes<T> sq_dist_to_boxes(const T* bounds, const Point& p) const {
    Lanes<T> sum = Lanes<T>::fill(0);
    for (int d = 0; d < dim(); ++d) {
      const Lanes<T> below = Lanes<T>::load(bounds + d * kFanOut) - p.x[d];
      const Lanes<T> above = p.x[d] - Lanes<T>::load(bounds + (dim() + d) * kFanOut);
      const Lanes<T> outside = max(max(below, above), Lanes<T>::fill(0));
      sum = d == 0 ? outside * outside : sum + outside * outside;
    }
    return sum;
  }

  // Makes the point at `place` a sample; returns the one to choose next.
  Far add(int32_t place, const Parallel& parallel) {
    const T* leaf = coords(place >> kLogFanOut);
    Point p;
    for (int d = 0; d < dim(); ++d) p.x[d] = Lanes<T>::fill(leaf[d * kFanOut + place % kFanOut]);
    coords(place >> kLogFanOut)[dim() * kFanOut + place % kFanOut] = kChosen;

    int64_t count[kMaxLevels + 1];  // of the groups touched on a level; of leaves at [0]
    const int top = num_levels_ - 1;
    count[top + 1] = levels_[top].groups;
    for (int l = top; l >= 0; --l) {
      const Level& level = levels_[l];
      const uint32_t own = static_cast<uint32_t>(place) >> kLogFanOut * (l + 1);  // the box that holds the point
      int32_t found = 0;
      for (int64_t i = 0; i < count[l + 1]; ++i) {
        const int32_t group = l == top ? static_cast<int32_t>(i) : levels_[l + 1].touched[i];
        const Lanes<T> sq_dist = sq_dist_to_boxes(level.bounds + int64_t{group} * 2 * dim() * kFanOut, p);
        Mask near = less(sq_dist, Lanes<T>::load(level.far + int64_t{group} * kFanOut));
        near |= static_cast<Mask>(own >> kLogFanOut == static_cast<uint32_t>(group)) << own % kFanOut;
        compress(near, Lanes<int32_t>::iota() + Lanes<int32_t>::fill(group * kFanOut), level.touched + found);
        found += __builtin_popcount(near);
      }
      count[l] = found;
    }
    parallel.ranges(count[0], kLeavesPerThread, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) update_leaf(levels_[0].touched[i], p);
    });
    for (int l = 0; l < top; ++l)
      for (int64_t i = 0; i < count[l + 1]; ++i) {
        const int32_t group = levels_[l + 1].touched[i];
        const Far far = farthest(levels_[l], group);
        levels_[l + 1].far[group] = far.sq_dist;
        levels_[l + 1].place[group] = far.place;
      }
    Far best = farthest(levels_[top], 0);
    for (int64_t group = 1; group < levels_[top].groups; ++group) {
      const Far far = farthest(levels_[top], group);
      if (far.sq_dist > best.sq_dist || (far.sq_dist == best.sq_dist && rows_[far.place] < rows_[best.place]))
        best = far;
    }
    return best;
  }

  PCSEG_INLINE void update_leaf(int64_t leaf, const Point& p) {
    T* x = coords(leaf);
    T* sq_dist = x + dim() * kFanOut;
    Lanes<T> sum = Lanes<T>::fill(0);
    for (int d = 0; d < dim(); ++d) {
      const Lanes<T> difference = Lanes<T>::load(x + d * kFanOut) - p.x[d];
      sum = d == 0 ? difference * difference : sum + difference * difference;
    }
    sum = min(sum, Lanes<T>::load(sq_dist));
    sum.store(sq_dist);
    const T far = largest(sum);
    levels_[0].far[leaf] = far;
    levels_[0].place[leaf] = static_cast<int32_t>(leaf * kFanOut) + __builtin_ctz(equal(sum, Lanes<T>::fill(far)));
  }

  PCSEG_INLINE Far farthest(const Level& level, int64_t group) const {
    const Lanes<T> sq_dist = Lanes<T>::load(level.far + group * kFanOut);
    const T far = largest(sq_dist);
    Mask equals = equal(sq_dist, Lanes<T>::fill(far));
    const int32_t* places = level.place + group * kFanOut;
    int32_t place = places[__builtin_ctz(equals)];
    if (far < 0) return {far, place};  // all chosen: places without a point have no row
    while (equals &= equals - 1) {
      const int32_t other = places[__builtin_ctz(equals)];
      if (rows_[other] < rows_[place]) place = other;
    }
    return {far, place};
  }

  const FarthestPointSample<T>& a_;
  int32_t* rows_ = nullptr;
  int64_t num_points_ = 0, num_leaves_ = 0, reals_size_ = 0, ints_size_ = 0;
  int32_t start_ = 0;
  int num_levels_ = 0;
  Level levels_[kMaxLevels];
  T* leaves_ = nullptr;  // dim axes of 16 coordinates, then 16 squared distances
  AlignedArray<T> reals_;
  AlignedArray<int32_t> ints_;
};

// The first row with a coordinate that is not finite, num_points where there is none.
template <class T>
int64_t first_not_finite(const FarthestPointSample<T>& a, const Parallel& parallel) {
  std::atomic<int64_t> first{a.num_points};
  parallel.ranges(a.num_points, 1 << 14, [&](int64_t begin, int64_t end) {
    const T *x = a.coords + begin * a.dim, *last = a.coords + end * a.dim;
    for (int bad = 0; last - x >= 256 && bad == 0;) {
      for (int i = 0; i < 256; ++i) bad |= !(x[i] - x[i] == 0);
      if (bad == 0) x += 256;
    }
    while (x < last && *x - *x == 0) ++x;
    int64_t row = (x - a.coords) / a.dim, known = first;
    while (row < end && row < known && !first.compare_exchange_weak(known, row)) {
    }
  });
  return first;
}

// The rows of each cloud, near ones near each other, unless so few are wanted that looking at all points is cheaper.
template <class T>
AlignedArray<int32_t> order_rows(const FarthestPointSample<T>& a, const Parallel& parallel) {
  int64_t most = 0;
  for (int64_t cloud = 0; cloud < a.num_clouds; ++cloud)
    most = std::max(most, a.sample_offsets[cloud + 1] - a.sample_offsets[cloud]);
  if (most > kFewSamples) return order_points(a.coords, a.offsets, a.num_clouds, a.dim, parallel).rows;
  AlignedArray<int32_t> rows(a.num_points);
  std::iota(rows.data(), rows.data() + a.num_points, 0);
  return rows;
}

template <class T, int D>
int64_t sample(const FarthestPointSample<T>& a, const Parallel& parallel) {
  if (const int64_t row = first_not_finite(a, parallel); row < a.num_points) return row;
  AlignedArray<int32_t> rows = order_rows(a, parallel);
  std::vector<std::unique_ptr<Sampler<T, D>>> samplers(parallel.threads());
  const auto run = [&](int64_t cloud, int worker, const Parallel& threads) {
    if (!samplers[worker]) samplers[worker].reset(new Sampler<T, D>(a));
    samplers[worker]->run(cloud, rows.data() + a.offsets[cloud], threads);
  };
  const auto size = [&](int64_t cloud) { return a.offsets[cloud + 1] - a.offsets[cloud]; };
  // Large clouds first, the largest of them foremost, so that no thread is left with one at the end.
  std::vector<int64_t> large;
  for (int64_t cloud = 0; cloud < a.num_clouds; ++cloud)
    if (size(cloud) >= kLargeCloud) large.push_back(cloud);
  std::stable_sort(large.begin(), large.end(), [&](int64_t x, int64_t y) { return size(x) > size(y); });
  const auto num_large = static_cast<int64_t>(large.size());
  if (num_large == 1) {
    run(large[0], 0, parallel);
  } else {
    parallel.tasks(num_large, [&](int64_t i, int worker) { run(large[i], worker, Parallel::serial()); });
  }
  if (num_large == a.num_clouds) return -1;
  parallel.tasks((a.num_clouds + kCloudsPerTask - 1) / kCloudsPerTask, [&](int64_t task, int worker) {
    for (int64_t cloud = task * kCloudsPerTask; cloud < std::min(a.num_clouds, (task + 1) * kCloudsPerTask); ++cloud)
      if (size(cloud) < kLargeCloud) run(cloud, worker, Parallel::serial());
  });
  return -1;
}

}  // namespace

int64_t farthest_point_sample(const FarthestPointSample<float>& a, const Parallel& parallel) {
  if (a.dim == 2) return sample<float, 2>(a, parallel);
  if (a.dim == 3) return sample<float, 3>(a, parallel);
  return sample<float, 0>(a, parallel);
}
int64_t farthest_point_sample(const FarthestPointSample<double>& a, const Parallel& parallel) {
  if (a.dim == 2) return sample<double, 2>(a, parallel);
  if (a.dim == 3) return sample<double, 3>(a, parallel);
  return sample<double, 0>(a, parallel);
}

}  // namespace pcseg::PCSEG_ISA
