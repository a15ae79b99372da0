#include "point_order.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>

#include "hilbert.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kLeaf = 16;
constexpr int64_t kSplitBelow = 512;      // points: nested halves beat the curve's fixed costs
constexpr int64_t kSerialBelow = 1 << 15;  // points: not worth several threads
constexpr int kRowBits = 31, kCurveBits = 33, kDigitBits = 11, kDigits = 1 << kDigitBits;

// Two buffers of keys: a key is a rank along the curve, then a row.
struct Keys {
  AlignedArray<uint64_t> from, to;
  int64_t size = 0;

  void reserve(int64_t n) {
    if (n <= size) return;
    from = AlignedArray<uint64_t>(n);
    to = AlignedArray<uint64_t>(n);
    size = n;
  }
};

struct Run {
  int64_t begin, end;
};

// D: number of coordinates, 0 for any.
template <class T, int D>
class Sorter {
 public:
  Sorter(const T* coords, int64_t dim) : coords_(coords), dim_(D ? D : dim) {}

  // Sorts rows[0 .. n), ascending before, where all are finite. `keys` serves this call and is free after it.
  void sort(int32_t* rows, int64_t n, Keys& keys, const Parallel& parallel) const {
    if (n <= kSplitBelow) return split(rows, n);
    const Frame frame = frame_of(rows, n, parallel);
    if (frame.empty) return;
    keys.reserve(n);
    uint64_t* key = keys.from.data();
    parallel.ranges(n, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        key[i] = rank(point(rows[i]), frame) << kRowBits | static_cast<uint64_t>(rows[i]);
    });
    key = radix_sort(keys, n, parallel);

    // Where more than a leaf's points share a cell of the curve, the cell gets a curve of its own.
    std::vector<Run> crowded;
    std::mutex guard;
    parallel.ranges(n, kSerialBelow, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) rows[i] = static_cast<int32_t>(key[i] & ((uint64_t{1} << kRowBits) - 1));
    });
    parallel.ranges(n, kSerialBelow, [&](int64_t begin, int64_t end) {
      int64_t first = begin;
      while (first > 0 && first < end && same_cell(key[first], key[first - 1])) ++first;
      while (first < end) {
        int64_t last = first + 1;
        while (last < n && same_cell(key[last], key[first])) ++last;
        if (last - first > kSplitBelow) {
          const std::lock_guard lock(guard);
          crowded.push_back({first, last});
        } else if (last - first > kLeaf) {
          split(rows + first, last - first);
        }
        first = last;
      }
    });
    refine(rows, n, std::move(crowded), keys, parallel);
  }

 private:
  struct Frame {
    T low[D ? D : 8];
    T scale;  // cells per unit of length
    T last;   // cell of an axis
    int bits;
    bool empty;  // all points are one
  };

  const T* point(int64_t row) const { return coords_ + row * dim_; }
  int dim() const { return D ? D : static_cast<int>(dim_); }
  static bool same_cell(uint64_t a, uint64_t b) { return (a ^ b) >> kRowBits == 0; }

  void refine(int32_t* rows, int64_t n, std::vector<Run> runs, Keys& keys, const Parallel& parallel) const {
    if (runs.size() == 1 && runs[0].end - runs[0].begin == n) return split(rows, n);  // the curve cannot tell them apart
    std::vector<Run> small;
    for (const Run& run : runs)
      if (run.end - run.begin < kSerialBelow || parallel.threads() == 1)
        small.push_back(run);
      else
        sort(rows + run.begin, run.end - run.begin, keys, parallel);
    if (parallel.threads() == 1) {
      for (const Run& run : small) sort(rows + run.begin, run.end - run.begin, keys, parallel);
      return;
    }
    std::vector<Keys> keys_of(parallel.threads());
    parallel.tasks(small.size(), [&](int64_t i, int worker) {
      sort(rows + small[i].begin, small[i].end - small[i].begin, keys_of[worker], Parallel::serial());
    });
  }

  Frame frame_of(const int32_t* rows, int64_t n, const Parallel& parallel) const {
    constexpr T kMax = std::numeric_limits<T>::max();
    Frame frame;
    T high[D ? D : 8];
    std::fill_n(frame.low, dim(), kMax);
    std::fill_n(high, dim(), -kMax);
    std::mutex guard;
    parallel.ranges(n, kSerialBelow, [&](int64_t begin, int64_t end) {
      T lo[D ? D : 8], hi[D ? D : 8];
      std::fill_n(lo, dim(), kMax);
      std::fill_n(hi, dim(), -kMax);
      for (int64_t i = begin; i < end; ++i) {
        const T* p = point(rows[i]);
        for (int d = 0; d < dim(); ++d) lo[d] = std::min(lo[d], p[d]), hi[d] = std::max(hi[d], p[d]);
      }
      const std::lock_guard lock(guard);
      for (int d = 0; d < dim(); ++d)
        frame.low[d] = std::min(frame.low[d], lo[d]), high[d] = std::max(high[d], hi[d]);
    });
    T extent = 0;
    for (int d = 0; d < dim(); ++d) extent = std::max(extent, high[d] - frame.low[d]);
    frame.empty = extent == 0;
    frame.bits = std::min(kCurveBits / dim(), 21);
    frame.last = static_cast<T>((uint32_t{1} << frame.bits) - 1);
    frame.scale = static_cast<T>(uint32_t{1} << frame.bits) / extent;  // 0 or infinite at worst: then `split` takes over
    return frame;
  }

  uint64_t rank(const T* p, const Frame& frame) const {
    uint32_t cell[D ? D : 8];
    for (int d = 0; d < dim(); ++d) {
      const T x = (p[d] - frame.low[d]) * frame.scale;
      cell[d] = static_cast<uint32_t>(x > 0 ? std::min(x, frame.last) : T(0));
    }
    if constexpr (D == 2 || D == 3) {
      return kHilbert<D>.rank(cell, frame.bits);
    } else {
      uint64_t rank = 0;
      for (int bit = frame.bits - 1; bit >= 0; --bit)
        for (int d = 0; d < dim(); ++d) rank = rank << 1 | (cell[d] >> bit & 1);
      return rank;
    }
  }

  // Stable, by the rank only.
  static uint64_t* radix_sort(Keys& keys, int64_t n, const Parallel& parallel) {
    const int64_t parts = n < kSerialBelow ? 1 : parallel.threads();
    std::vector<int64_t> counts(parts * kDigits);
    uint64_t *from = keys.from.data(), *to = keys.to.data();
    for (int shift = kRowBits; shift < kRowBits + kCurveBits; shift += kDigitBits) {
      const auto digit = [&](uint64_t key) { return key >> shift & (kDigits - 1); };
      const auto for_parts = [&](auto&& f) {
        if (parts == 1) return f(0);
        parallel.workers(f);
      };
      std::fill(counts.begin(), counts.end(), 0);
      for_parts([&](int part) {
        int64_t* count = counts.data() + part * kDigits;
        const int64_t end = n * (part + 1) / parts;
        for (int64_t i = n * part / parts; i < end; ++i) ++count[digit(from[i])];
      });
      int64_t next = 0;
      for (int64_t d = 0; d < kDigits; ++d)
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t count = counts[part * kDigits + d];
          counts[part * kDigits + d] = next;
          next += count;
        }
      for_parts([&](int part) {
        int64_t* place = counts.data() + part * kDigits;
        const int64_t end = n * (part + 1) / parts;
        for (int64_t i = n * part / parts; i < end; ++i) to[place[digit(from[i])]++] = from[i];
      });
      std::swap(from, to);
    }
    return from;
  }

  // Halves along the longest side, down to leaves.
  void split(int32_t* rows, int64_t n) const {
    while (n > kLeaf) {
      int longest = 0;
      T extent = -1;
      for (int d = 0; d < dim(); ++d) {
        T low = point(rows[0])[d], high = low;
        for (int64_t i = 1; i < n; ++i) low = std::min(low, point(rows[i])[d]), high = std::max(high, point(rows[i])[d]);
        if (high - low > extent) extent = high - low, longest = d;
      }
      if (extent == 0) {
        std::sort(rows, rows + n);
        return;
      }
      const int64_t half = (n / kLeaf + 1) / 2 * kLeaf;
      std::nth_element(rows, rows + half, rows + n, [&](int32_t a, int32_t b) {
        const T x = point(a)[longest], y = point(b)[longest];
        return x < y || (x == y && a < b);
      });
      split(rows, half);
      rows += half;
      n -= half;
    }
  }

  const T* coords_;
  int64_t dim_;
};

template <class T>
bool is_finite(const T* point, int64_t dim) {
  bool finite = true;
  for (int64_t d = 0; d < dim; ++d) finite &= point[d] - point[d] == 0;
  return finite;
}

// rows[begin .. end): the finite ones, then the others. Returns how many are finite.
template <class T>
int64_t list_rows(const T* coords, int64_t dim, int64_t begin, int64_t end, int32_t* rows, const Parallel& parallel) {
  std::atomic<bool> all_finite{true};
  parallel.ranges(end - begin, kSerialBelow, [&](int64_t first, int64_t last) {
    bool finite = true;
    for (int64_t i = begin + first; i < begin + last; ++i) {
      rows[i] = static_cast<int32_t>(i);
      finite &= is_finite(coords + i * dim, dim);
    }
    if (!finite) all_finite = false;
  });
  if (all_finite) return end - begin;
  int64_t finite = begin;
  for (int64_t i = begin; i < end; ++i) {
    rows[finite] = static_cast<int32_t>(i);
    finite += is_finite(coords + i * dim, dim);
  }
  for (int64_t i = end, last = end; finite < last; )
    if (--i, !is_finite(coords + i * dim, dim)) rows[--last] = static_cast<int32_t>(i);
  return finite - begin;
}

template <class T, int D>
PointOrder order(const T* coords, const int64_t* offsets, int64_t num_clouds, int64_t dim, const Parallel& parallel) {
  PointOrder result{AlignedArray<int32_t>(offsets[num_clouds]), std::vector<int64_t>(num_clouds)};
  const Sorter<T, D> sorter(coords, dim);
  const auto sort_cloud = [&](int64_t cloud, Keys& keys, const Parallel& threads) {
    int32_t* rows = result.rows.data();
    result.num_finite[cloud] = list_rows(coords, dim, offsets[cloud], offsets[cloud + 1], rows, threads);
    sorter.sort(rows + offsets[cloud], result.num_finite[cloud], keys, threads);
  };
  // Tasks of whole small clouds, then the large clouds with all threads for each.
  std::vector<int64_t> first_of_task, large;
  int64_t points = kSerialBelow;
  for (int64_t cloud = 0; cloud < num_clouds; ++cloud) {
    const int64_t n = offsets[cloud + 1] - offsets[cloud];
    if (n >= kSerialBelow) large.push_back(cloud);
    if (points >= kSerialBelow / 4) first_of_task.push_back(cloud), points = 0;
    points += n < kSerialBelow ? n + 1 : 0;
  }
  first_of_task.push_back(num_clouds);
  std::vector<Keys> keys_of(parallel.threads());
  parallel.tasks(static_cast<int64_t>(first_of_task.size()) - 1, [&](int64_t task, int worker) {
    for (int64_t cloud = first_of_task[task]; cloud < first_of_task[task + 1]; ++cloud)
      if (offsets[cloud + 1] - offsets[cloud] < kSerialBelow)
        sort_cloud(cloud, keys_of[worker], Parallel::serial());
  });
  for (const int64_t cloud : large) sort_cloud(cloud, keys_of[0], parallel);
  return result;
}

}  // namespace

template <class T>
PointOrder order_points(const T* coords, const int64_t* offsets, int64_t num_clouds, int64_t dim,
                        const Parallel& parallel) {
  if (dim == 2) return order<T, 2>(coords, offsets, num_clouds, dim, parallel);
  if (dim == 3) return order<T, 3>(coords, offsets, num_clouds, dim, parallel);
  return order<T, 0>(coords, offsets, num_clouds, dim, parallel);
}

template PointOrder order_points(const float*, const int64_t*, int64_t, int64_t, const Parallel&);
template PointOrder order_points(const double*, const int64_t*, int64_t, int64_t, const Parallel&);

}  // namespace pcseg::PCSEG_ISA
