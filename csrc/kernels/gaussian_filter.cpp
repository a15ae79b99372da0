#include "gaussian_filter.h"

#include <atomic>

#include "aligned_array.h"
#include "permutohedral_lattice.h"
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
  void store(T* to) const {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) put(to, i, v[i]);
  }
  void add_scaled(T factor, const T* from) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) v[i] = v[i] + at(from, i) * factor;
  }
  // to += factor * from
  static void add_scaled_to(T* to, T factor, const T* from) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) put(to, i, at(to, i) + at(from, i) * factor);
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

// entry / (dims + 1) by a multiplication; exact for entry < 2^31 and up to 9 colours.
struct PointOf {
  uint64_t factor;
  explicit PointOf(int colours) : factor(((uint64_t{1} << 34) + colours - 1) / colours) {}
  int64_t operator()(uint32_t entry) const { return static_cast<int64_t>((entry * factor) >> 34); }
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
  // One task a group of lattice points: it goes through the points in order, so that it reads values in order too, and
  // adds to sums that stay in cache. Now and then these go to the totals, so that the rounding of long sums stays small.
  void splat() {
    const int64_t colours = a_.dims + 1, entries = a_.num_points * colours, rows = a_.num_vertices;
    const int shift = lattice_group_shift(rows);
    const PointOf point_of(static_cast<int>(colours));
    T *const total = from_, *const sum = to_;
    parallel_.tasks(a_.num_groups, [&, this](int64_t group, int) {
      const int64_t first = group << shift, size = std::min(rows - first, int64_t{1} << shift);
      std::fill_n(total + first * kWidth, size * kWidth, T(0));
      std::fill_n(sum + first * kWidth, size * kWidth, T(0));
      int64_t e = a_.entry_offsets[group];
      const int64_t last = a_.entry_offsets[group + 1], most = std::max<int64_t>(4096, 8 * size);
      bool bad = e < 0 || last < e || last > entries;
      while (!bad && e < last) {
        const int64_t stop = std::min(last, e + most);
        bad = !add_entries(sum + first * kWidth, first, size, e, stop, point_of);
        for (int64_t m = first; m < first + size; ++m) R::add_to(total + m * kWidth, sum + m * kWidth);
        e = stop;
        if (e < last) std::fill_n(sum + first * kWidth, size * kWidth, T(0));
      }
      if (bad) bad_ = true;
    });
    std::fill_n(from_ + rows * kWidth, kWidth, T(0));
    std::fill_n(to_ + rows * kWidth, kWidth, T(0));
  }

  bool add_entries(T* sum, int64_t first, int64_t size, int64_t e, int64_t stop, PointOf point_of) const {
    const int64_t entries = a_.num_points * (a_.dims + 1), safe = safe_, channels = a_.channels;
    const int32_t *const list = a_.entries, *const vertices = a_.vertices;
    const T *const weights = a_.weights, *const values = a_.values + channel_, *const tail = tail_.data();
    for (; e < stop; ++e) {
      const auto entry = static_cast<uint32_t>(list[e]);
      if (entry >= entries) return false;
      const auto m = static_cast<uint64_t>(vertices[entry] - first);
      if (m >= static_cast<uint64_t>(size)) return false;
      const int64_t i = point_of(entry);
      R::add_scaled_to(sum + m * kWidth, weights[entry], i < safe ? values + i * channels : tail + (i - safe) * kWidth);
    }
    return true;
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
    constexpr int size = sizeof(T);
    // Few channels: the vectors of narrower instruction sets.
    constexpr int quarter = std::max(kVectorBytes / 4, 16), half = std::max(kVectorBytes / 2, 16);
    if (left * size <= quarter) pass(std::integral_constant<int, quarter>{}, one);
    else if (left * size <= half) pass(std::integral_constant<int, half>{}, one);
    else if (left <= lanes) pass(wide, one);
    else if (left <= 2 * lanes) pass(wide, std::integral_constant<int, 2>{});
    else if (left <= 3 * lanes) pass(wide, std::integral_constant<int, 3>{});
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
