#include "gaussian_filter.h"

#include <atomic>

#include "aligned_array.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T, int Bytes>
struct NarrowVector {
  typedef T type __attribute__((vector_size(Bytes)));
};

// One row of K vectors of Bytes each. Products are rounded before they are added: every instruction set and a GPU then
// give the same bits.
template <class T, int Bytes, int K>
struct Row {
  using V = typename NarrowVector<T, Bytes>::type;
  static constexpr int kWidth = K * Bytes / static_cast<int>(sizeof(T));
  V v[K];

  void clear() {
    for (int i = 0; i < K; ++i) v[i] = V{};
  }
  void load(const T* from) { std::memcpy(v, from, sizeof v); }
  void store(T* to) const { std::memcpy(to, v, sizeof v); }
  void add(const Row& other) {
    for (int i = 0; i < K; ++i) v[i] = v[i] + other.v[i];
  }
  void add_scaled(T factor, const T* from) {
    Row other;
    other.load(from);
    for (int i = 0; i < K; ++i) v[i] = v[i] + other.v[i] * factor;
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
  const T* value(int64_t i) const {
    return i < safe_ ? a_.values + i * a_.channels + channel_ : tail_.data() + (i - safe_) * kWidth;
  }

  void splat() {
    const int64_t colours = a_.dims + 1, entries = a_.num_points * colours, rows = a_.num_vertices;
    // Tasks of about as many entries each, cut between lattice points.
    constexpr int64_t kEntries = 8192, kRun = 256;
    const int64_t tasks = entries / kEntries + 1;
    const auto begin_of = [&](int64_t task) {
      return task == tasks ? rows
                           : std::lower_bound(a_.entry_offsets, a_.entry_offsets + rows, task * kEntries) -
                                 a_.entry_offsets;
    };
    const PointOf point_of(static_cast<int>(colours));
    parallel_.tasks(tasks, [&](int64_t task, int) {
      bool bad = false;
      for (int64_t m = begin_of(task), end = begin_of(task + 1); m < end; ++m) {
        int64_t e = a_.entry_offsets[m];
        const int64_t last = a_.entry_offsets[m + 1];
        if (e < 0 || last < e || last > entries) {
          bad = true;
          continue;
        }
        R sum;
        sum.clear();
        while (e < last) {  // runs, so that the rounding of a long list stays small
          R run;
          run.clear();
          for (const int64_t stop = std::min(last, e + kRun); e < stop; ++e) {
            const auto entry = static_cast<uint32_t>(a_.entries[e]);
            if (entry >= entries) {
              bad = true;
              continue;
            }
            run.add_scaled(a_.weights[entry], value(point_of(entry)));
          }
          sum.add(run);
        }
        sum.store(from_ + m * kWidth);
      }
      if (bad) bad_ = true;
    });
    std::fill_n(from_ + rows * kWidth, kWidth, T(0));
    std::fill_n(to_ + rows * kWidth, kWidth, T(0));
  }

  void blur(int axis) {
    const int32_t* const neighbors = a_.neighbors + axis * (a_.num_vertices + 1) * 2;
    parallel_.ranges(a_.num_vertices, 1 + 8192 / kWidth, [&](int64_t begin, int64_t end) {
      const auto none = static_cast<uint32_t>(a_.num_vertices);
      bool bad = false;
      for (int64_t m = begin; m < end; ++m) {
        const auto next = static_cast<uint32_t>(neighbors[2 * m]), before = static_cast<uint32_t>(neighbors[2 * m + 1]);
        if (next > none || before > none) {
          bad = true;
          continue;
        }
        R sum, other;
        sum.load(from_ + next * int64_t{kWidth});
        other.load(from_ + before * int64_t{kWidth});
        sum.add(other);
        other.load(from_ + m * kWidth);
        for (int i = 0; i < K; ++i) sum.v[i] = other.v[i] + sum.v[i] * T(0.5);
        sum.store(to_ + m * kWidth);
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
      bool bad = false;
      for (int64_t i = begin; i < end; ++i) {
        const int32_t* const vertices = a_.vertices + i * colours;
        const T* const weights = a_.weights + i * colours;
        R sum;
        sum.clear();
        for (int k = 0; k < colours; ++k) {
          const auto m = static_cast<uint32_t>(vertices[k]);
          if (m >= rows) {
            bad = true;
            continue;
          }
          sum.add_scaled(weights[k], from_ + m * int64_t{kWidth});
        }
        T* const out = a_.out + i * a_.channels + channel_;
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
    if (kVectorBytes > 16 && left * size <= 16) pass(std::integral_constant<int, 16>{}, one);
    else if (kVectorBytes > 32 && left * size <= 32) pass(std::integral_constant<int, 32>{}, one);
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
