// Rows of probabilities as potts_relaxation.h wants them, aligned and padded to whole vectors, and the way back from a
// gradient on table rows to one on log-probabilities.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "aligned_array.h"
#include "parallel.h"
#include "potts_energy.h"
#include "vector_math.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Rows at a time: enough that a task costs more than handing it out.
constexpr int64_t kRowsInTask = 2048;

template <class T>
class PottsTable {
 public:
  static constexpr int64_t kStep = kLanes<T>;

  PottsTable(const PottsEnergy<T>& a, const Parallel& parallel)
      : a_(a),
        vectors_((table_columns(a.num_classes, a.relaxation) + kStep - 1) / kStep),
        stride_(vectors_ * kStep),
        rows_(a.num_rows * stride_) {
    for (int l = 0; l < kStep; ++l) lane_[l] = l;
    parallel.ranges(a.num_rows, kRowsInTask, [&](int64_t begin, int64_t end) { fill(begin, end); });
  }

  int64_t vectors() const { return vectors_; }
  int64_t stride() const { return stride_; }
  const T* data() const { return rows_.data(); }

  // The vector from column c on as it meets other rows: in lq their gini / 2 meets a 1, their 1 a 0.
  [[gnu::always_inline]] Vector<T> as_query(const T* row, int64_t c) const {
    Vector<T> x = load(row + c);
    if (a_.relaxation != Relaxation::lq) return x;
    const Vector<Bits<T>> column = lane_ + static_cast<Bits<T>>(c);
    const auto classes = static_cast<Bits<T>>(a_.num_classes);
    x = column == classes ? broadcast<T>(T(1)) : x;
    return column == classes + 1 ? Vector<T>{} : x;
  }

  // grad_log_probs of rows begin .. end - 1, from the gradient on their table rows.
  void gradient(const T* grad_rows, T* grad_log_probs, int64_t begin, int64_t end) const {
    const int64_t classes = a_.num_classes;
    Buffer<T> tail(stride_);
    for (int64_t group = begin; group < end; group += kStep) {
      const int64_t n = std::min(kStep, end - group);
      T along[kStep], total[kStep], rest[kStep];
      if (has_unit_rows(a_.relaxation))
        sums(group, n, along, [&](int64_t i, int64_t c) { return row(i, c) * load(grad_rows + i * stride_ + c); });
      if (a_.relaxation == Relaxation::lq) sums_of_others(group, n, total, rest);
      for (int64_t i = group; i < group + n; ++i) {
        const T *source = log_probs(i, tail), *grad = grad_rows + i * stride_;
        T* out = grad_log_probs + i * classes;
        for (int64_t c = 0; c < stride_; c += kStep) {
          const Vector<T> p = row(i, c);
          Vector<T> g = load(grad + c);
          if (has_unit_rows(a_.relaxation)) g -= along[i - group] * p;
          if (a_.relaxation == Relaxation::lq)
            g = multiply_add<T>(broadcast<T>(grad[classes + 1]), others(p, total[i - group], rest[i - group]), g);
          g = load(source + c) < T(kLogFloor) ? Vector<T>{} : g * p;
          // A whole vector may run into the next rows, which are written later, but not into another thread's.
          if (i * classes + c + kStep <= end * classes)
            store<T>(out + c, g);
          else
            std::memcpy(out + c, &g, std::min(kStep, std::max<int64_t>(classes - c, 0)) * sizeof(T));
        }
      }
    }
  }

 private:
  T* row(int64_t i) { return rows_.data() + i * stride_; }
  Vector<T> row(int64_t i, int64_t c) const { return load(rows_.data() + i * stride_ + c); }

  // Log-probabilities of row i, readable for stride() numbers.
  const T* log_probs(int64_t i, Buffer<T>& tail) const {
    const int64_t classes = a_.num_classes;
    const T* source = a_.log_probs + i * classes;
    if (i * classes + stride_ <= a_.num_rows * classes) return source;
    std::memcpy(tail.data(), source, classes * sizeof(T));
    std::fill(tail.data() + classes, tail.data() + stride_, T(0));
    return tail.data();
  }

  void fill(int64_t begin, int64_t end) {
    const int64_t classes = a_.num_classes;
    Buffer<T> tail(stride_);
    for (int64_t group = begin; group < end; group += kStep) {
      const int64_t n = std::min(kStep, end - group);
      for (int64_t i = group; i < group + n; ++i) {
        const T* source = log_probs(i, tail);
        for (int64_t c = 0; c < stride_; c += kStep) {
          const Vector<T> x = load(source + c);
          store<T>(row(i) + c, classes_only(exp<T>(x < T(kLogFloor) ? broadcast<T>(T(kLogFloor)) : x), c));
        }
      }
      if (has_unit_rows(a_.relaxation)) {
        T scale[kStep];
        sums(group, n, scale, [&](int64_t i, int64_t c) { return row(i, c) * row(i, c); });
        for (T& square : scale) square = 1 / std::sqrt(square);
        for (int64_t i = group; i < group + n; ++i)
          for (int64_t c = 0; c < stride_; c += kStep) store<T>(row(i) + c, row(i, c) * scale[i - group]);
      }
      if (a_.relaxation == Relaxation::lq) {
        T total[kStep], rest[kStep], gini[kStep];
        sums_of_others(group, n, total, rest);
        sums(group, n, gini, [&](int64_t i, int64_t c) {
          return row(i, c) * others(row(i, c), total[i - group], rest[i - group]);
        });
        for (int64_t i = group; i < group + n; ++i) {
          row(i)[classes] = gini[i - group] / 2;
          row(i)[classes + 1] = 1;
        }
      }
    }
  }

  // sum[r] = the sum over the columns of f(group + r, column), for r < n; arbitrary beyond.
  template <class F>
  void sums(int64_t group, int64_t n, T* sum, F&& f) const {
    store<T>(sum, sums_of_lanes<T>(static_cast<int>(n), [&](int64_t r) {
               Vector<T> v{};
               for (int64_t c = 0; c < stride_; c += kStep) v += f(group + std::min(r, n - 1), c);
               return v;
             }));
  }

  // Sum of each row's probabilities, and of those that are at most half of it: what the one beyond half leaves to the
  // others. For it alone total - p would lose digits.
  void sums_of_others(int64_t group, int64_t n, T* total, T* rest) const {
    sums(group, n, total, [&](int64_t i, int64_t c) { return classes_only(row(i, c), c); });
    sums(group, n, rest, [&](int64_t i, int64_t c) {
      const Vector<T> p = classes_only(row(i, c), c);
      return p > total[i - group] / 2 ? Vector<T>{} : p;
    });
  }
  static Vector<T> others(Vector<T> p, T total, T rest) {
    return p > total / 2 ? broadcast<T>(rest) : total - p;
  }

  // The vector from column c on, 0 behind the last class.
  Vector<T> classes_only(Vector<T> v, int64_t c) const {
    return lane_ < static_cast<Bits<T>>(a_.num_classes - c) ? v : Vector<T>{};
  }

  PottsEnergy<T> a_;
  int64_t vectors_, stride_;
  Vector<Bits<T>> lane_;  // 0, 1, 2, ..
  AlignedArray<T> rows_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
