#include "gaussian_filter.h"

#include <atomic>
#include <vector>

#include "aligned_array.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

// One row of K vectors of Bytes each. Products are rounded before they are added: every instruction set and a GPU then
// give the same bits.
template <class T, int Bytes, int K>
struct Row {
  typedef T V __attribute__((vector_size(Bytes)));
  typedef T Unaligned __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
  static constexpr int kLanes = Bytes / static_cast<int>(sizeof(T)), kWidth = K * kLanes;
  V v[K];

  static V at(const T* from, int i) { return *reinterpret_cast<const Unaligned*>(from + i * kLanes); }
  static void put(T* to, int i, V value) { *reinterpret_cast<Unaligned*>(to + i * kLanes) = value; }

  void clear() {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) v[i] = V{};
  }
  void load(const T* from) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) v[i] = at(from, i);
  }
  void store(T* to) const {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) put(to, i, v[i]);
  }
  void add_scaled(T factor, const T* from) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) v[i] = v[i] + at(from, i) * factor;
  }
  // to += factor * this
  void add_scaled_to(T* to, T factor) const {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) put(to, i, at(to, i) + v[i] * factor);
  }
  static void add_to(T* to, const T* from) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) put(to, i, at(to, i) + at(from, i));
  }
  static void blur(T* to, const T* here, const T* next, const T* before) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) put(to, i, at(here, i) + (at(next, i) + at(before, i)) * T(0.5));
  }
};

// The channels channel .. channel + count - 1, padded to a row's width. What the padding holds means nothing.
template <class T, int Bytes, int K>
class Channels {
 public:
  using R = Row<T, Bytes, K>;
  static constexpr int kWidth = R::kWidth;

  Channels(const GaussianFilter<T>& a, int64_t channel, int64_t count, T* vertex_values, T* blurred,
           const Parallel& parallel)
      : a_(a), channel_(channel), count_(count), from_(vertex_values), to_(blurred), parallel_(parallel) {
    // Rows are read whole, beyond their end, but not beyond the end of the last: the last ones are copied.
    const int64_t last = a.num_points * a.channels - channel - kWidth;
    safe_ = last < 0 ? 0 : std::min(a.num_points, last / a.channels + 1);
    tail_ = AlignedArray<T>((a.num_points - safe_) * kWidth);
    for (int64_t i = safe_; i < a.num_points; ++i)
      for (int c = 0; c < kWidth; ++c)
        tail_[(i - safe_) * kWidth + c] = c < count ? a.values[i * a.channels + channel + c] : T(0);
  }

  bool run() {
    splat();
    for (int j = 0; j <= a_.dims; ++j) {
      blur(a_.transpose ? a_.dims - j : j);
      std::swap(from_, to_);
    }
    slice();
    return !bad_;
  }

 private:
  // Every so many points the sums go to the totals, in order: the rounding of long sums stays small. No sum depends on
  // who forms it.
  void splat() {
    const int64_t runs = (a_.num_points - 1) / splat_points(a_.num_vertices, a_.dims) + 1;
    if (parallel_.threads() > 1 && runs >= parallel_.threads())
      splat_runs(runs);
    else
      splat_ranges();
    std::fill_n(from_ + a_.num_vertices * kWidth, kWidth, T(0));
    std::fill_n(to_ + a_.num_vertices * kWidth, kWidth, T(0));
  }

  // Many points to a lattice point: each run has sums of its own. They are few beside the values.
  void splat_runs(int64_t runs) {
    const int64_t rows = a_.num_vertices, most = splat_points(rows, a_.dims);
    AlignedArray<T> later((runs - 1) * rows * kWidth);
    parallel_.tasks(runs, [&, this](int64_t run, int) {
      T* const sum = run == 0 ? from_ : later.data() + (run - 1) * rows * kWidth;
      std::fill_n(sum, rows * kWidth, T(0));
      if (!add_points(sum, run * most, std::min(a_.num_points, (run + 1) * most))) bad_ = true;
    });
    parallel_.ranges(rows, 1 + 8192 / kWidth, [&, this](int64_t begin, int64_t end) {
      for (int64_t run = 1; run < runs; ++run)
        for (int64_t m = begin; m < end; ++m)
          R::add_to(from_ + m * kWidth, later.data() + ((run - 1) * rows + m) * kWidth);
    });
  }

  // Each worker owns a range of lattice points and goes through all points in order, so it reads values in order.
  void splat_ranges() {
    const int64_t rows = a_.num_vertices, most = splat_points(rows, a_.dims);
    const std::vector<int64_t> bounds = balanced_ranges();
    parallel_.tasks(static_cast<int64_t>(bounds.size()) - 1, [&, this](int64_t range, int) {
      const int64_t first = bounds[range], size = bounds[range + 1] - first;
      T *const total = from_ + first * kWidth, *const sum = to_ + first * kWidth;
      bool good = true;
      for (int64_t i = 0; i < a_.num_points; i += most) {
        const int64_t end = std::min(a_.num_points, i + most);
        T* const to = i == 0 ? total : sum;
        std::fill_n(to, size * kWidth, T(0));
        good &= size == rows ? add_points(to, i, end) : add_points_of(to, first, size, i, end);
        if (i > 0)
          for (int64_t m = 0; m < size; ++m) R::add_to(total + m * kWidth, sum + m * kWidth);
      }
      if (!good) bad_ = true;
    });
  }

  // Bounds between lattice points with about as many entries in each range, judged by some of the points.
  std::vector<int64_t> balanced_ranges() const {
    const int64_t rows = a_.num_vertices, colours = a_.dims + 1, entries = a_.num_points * colours;
    const int64_t ranges = std::clamp<int64_t>(std::min<int64_t>(parallel_.threads(), entries / 8192), 1, 64);
    std::vector<int64_t> bounds{0};
    if (ranges > 1) {
      constexpr int64_t bins = 1024;
      std::vector<int64_t> count(bins, 0);
      const int64_t step = std::max<int64_t>(1, entries / 65536) | 1;
      int64_t total = 0, before = 0;
      for (int64_t e = 0; e < entries; e += step, ++total) {
        const int64_t m = a_.vertices[e];
        if (0 <= m && m < rows) ++count[m * bins / rows];
      }
      for (int64_t b = 0; b < bins; ++b) {
        before += count[b];
        const int64_t bound = (b + 1) * rows / bins;
        if (before * ranges >= total * static_cast<int64_t>(bounds.size()) && bound > bounds.back() && bound < rows &&
            static_cast<int64_t>(bounds.size()) < ranges)
          bounds.push_back(bound);
      }
    }
    bounds.push_back(rows);
    return bounds;
  }

  bool add_points(T* sum, int64_t i, int64_t end) const {
    const int64_t colours = a_.dims + 1;
    const auto rows = static_cast<uint32_t>(a_.num_vertices);
    const int32_t* vertices = a_.vertices + i * colours;
    const T* weights = a_.weights + i * colours;
    bool good = true;
    for (; i < end; ++i, vertices += colours, weights += colours) {
      R row;
      row.load(value(i));
      for (int64_t k = 0; k < colours; ++k) {
        const auto m = static_cast<uint32_t>(vertices[k]);
        if (m < rows)
          row.add_scaled_to(sum + m * int64_t{kWidth}, weights[k]);
        else
          good = false;
      }
    }
    return good;
  }

  // Only for the lattice points first .. first + size - 1; the sums start at the first of them.
  bool add_points_of(T* sum, int64_t first, int64_t size, int64_t i, int64_t end) const {
    constexpr int64_t step = 64;
    const int64_t colours = a_.dims + 1;
    const auto rows = static_cast<uint32_t>(a_.num_vertices), low = static_cast<uint32_t>(first);
    bool good = true;
    for (; i < end; i += step) {
      const int64_t count = std::min(step, end - i) * colours;
      const int32_t* const vertices = a_.vertices + i * colours;
      const T* const weights = a_.weights + i * colours;
      // What belongs to the range, first listed without a branch.
      uint16_t hits[step * 9 + 1];
      int64_t n = 0;
      bool inside = true;
      for (int64_t e = 0; e < count; ++e) {
        const auto m = static_cast<uint32_t>(vertices[e]);
        hits[n] = static_cast<uint16_t>(e);
        n += m - low < static_cast<uint32_t>(size);
        inside &= m < rows;
      }
      good &= inside;
      const auto inverse = static_cast<uint32_t>(65536 / colours + 1);  // e / colours, exact for so few
      for (int64_t h = 0; h < n; ++h) {
        const uint32_t e = hits[h];
        R row;
        row.load(value(i + (e * inverse >> 16)));
        row.add_scaled_to(sum + (static_cast<uint32_t>(vertices[e]) - low) * int64_t{kWidth}, weights[e]);
      }
    }
    return good;
  }

  const T* value(int64_t i) const {
    return i < safe_ ? a_.values + i * a_.channels + channel_ : tail_.data() + (i - safe_) * kWidth;
  }

  void blur(int axis) {
    const int32_t* const neighbors = a_.neighbors + axis * (a_.num_vertices + 1) * 2;
    parallel_.ranges(a_.num_vertices, 1 + 8192 / kWidth, [&](int64_t begin, int64_t end) {
      const auto none = static_cast<uint32_t>(a_.num_vertices);
      const T* const from = from_;
      T* const to = to_;
      bool bad = false;
      for (int64_t m = begin; m < end; ++m) {
        const auto next = static_cast<uint32_t>(neighbors[2 * m]), before = static_cast<uint32_t>(neighbors[2 * m + 1]);
        if (next > none || before > none) {
          bad = true;
          continue;
        }
        R::blur(to + m * kWidth, from + m * kWidth, from + next * int64_t{kWidth}, from + before * int64_t{kWidth});
      }
      if (bad) bad_ = true;
    });
  }

  void slice() {
    const int colours = a_.dims + 1;
    parallel_.ranges(a_.num_points, 1 + 4096 / kWidth, [&](int64_t begin, int64_t end) {
      const auto rows = static_cast<uint32_t>(a_.num_vertices);
      // Where a row holds all channels it may be written beyond its end: the next row comes after it.
      const int64_t whole = count_ == kWidth ? end : channel_ > 0 ? begin : end - (kWidth - 1) / a_.channels;
      const T* const from = from_;
      const int32_t* vertices = a_.vertices + begin * colours;
      const T* weights = a_.weights + begin * colours;
      T* out = a_.out + begin * a_.channels + channel_;
      bool bad = false;
      for (int64_t i = begin; i < end; ++i, vertices += colours, weights += colours, out += a_.channels) {
        R sum;
        sum.clear();
        for (int k = 0; k < colours; ++k) {
          const auto m = static_cast<uint32_t>(vertices[k]);
          if (m < rows)
            sum.add_scaled(weights[k], from + m * int64_t{kWidth});
          else
            bad = true;
        }
        if (i < whole)
          sum.store(out);
        else
          std::memcpy(out, sum.v, count_ * sizeof(T));
      }
      if (bad) bad_ = true;
    });
  }

  const GaussianFilter<T>& a_;
  const int64_t channel_, count_;
  int64_t safe_;
  AlignedArray<T> tail_;
  T *from_, *to_;
  const Parallel& parallel_;
  std::atomic<bool> bad_{false};
};

template <class T>
bool run(const GaussianFilter<T>& a, const Parallel& parallel) {
  if (a.num_points == 0 || a.channels == 0) return true;
  constexpr int lanes = kLanes<T>;
  const int64_t vectors = std::min<int64_t>((a.channels + lanes - 1) / lanes, 8);
  const int64_t widest = (vectors > 4 ? vectors + vectors % 2 : vectors) * lanes;
  AlignedArray<T> first((a.num_vertices + 1) * widest), second((a.num_vertices + 1) * widest);
  bool good = true;
  for (int64_t channel = 0; channel < a.channels && good;) {
    const int64_t left = a.channels - channel;
    const auto pass = [&](auto bytes, auto count_of) {
      using C = Channels<T, decltype(bytes)::value, decltype(count_of)::value>;
      const int64_t count = std::min<int64_t>(left, C::kWidth);
      good = C(a, channel, count, first.data(), second.data(), parallel).run();
      channel += count;
    };
    const auto wide = std::integral_constant<int, kVectorBytes>{};
    const auto one = std::integral_constant<int, 1>{};
    const auto three = std::integral_constant<int, 3>{};
    constexpr int size = sizeof(T);
    // Few channels: the vectors of narrower instruction sets.
    constexpr int quarter = std::max(kVectorBytes / 4, 16), half = std::max(kVectorBytes / 2, 16);
    if (left * size <= quarter) pass(std::integral_constant<int, quarter>{}, one);
    else if (left * size <= half) pass(std::integral_constant<int, half>{}, one);
    else if (left <= lanes) pass(wide, one);
    else if (half < kVectorBytes && 2 * left <= 3 * lanes) pass(std::integral_constant<int, half>{}, three);
    else if (left <= 2 * lanes) pass(wide, std::integral_constant<int, 2>{});
    else if (left <= 3 * lanes) pass(wide, three);
    else if (left <= 4 * lanes) pass(wide, std::integral_constant<int, 4>{});
    else if (left <= 6 * lanes) pass(wide, std::integral_constant<int, 6>{});
    else pass(wide, std::integral_constant<int, 8>{});
  }
  return good;
}

}  // namespace

bool gaussian_filter(const GaussianFilter<float>& a, const Parallel& parallel) { return run(a, parallel); }
bool gaussian_filter(const GaussianFilter<double>& a, const Parallel& parallel) { return run(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
