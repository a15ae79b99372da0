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

  // grad_log_probs of rows begin .. end - 1, from the gradient on their table rows.
  void gradient(const T* grad_rows, T* grad_log_probs, int64_t begin, int64_t end) const {
    const int64_t classes = a_.num_classes, last = a_.num_rows * classes;
    Buffer<T> tail(stride_);
    for (int64_t i = begin; i < end; ++i) {
      const T *u = rows_.data() + i * stride_, *grad = grad_rows + i * stride_, *source = a_.log_probs + i * classes;
      T* out = grad_log_probs + i * classes;
      if (i * classes + stride_ > last) {
        std::memcpy(tail.data(), source, classes * sizeof(T));
        std::fill(tail.data() + classes, tail.data() + stride_, T(0));
        source = tail.data();
      }
      Vector<T> along{}, total{}, rest{};
      if (has_unit_rows(a_.relaxation)) {
        for (int64_t c = 0; c < stride_; c += kStep) along = multiply_add<T>(load(u + c), load(grad + c), along);
        along = sum_in_every_lane<T>(along);
      }
      if (a_.relaxation == Relaxation::lq) {
        sum_of_others(u, total, rest);
        along = broadcast<T>(grad[classes + 1]);
      }
      for (int64_t c = 0; c < stride_; c += kStep) {
        const Vector<T> p = load(u + c);
        Vector<T> g = load(grad + c);
        if (has_unit_rows(a_.relaxation)) g = multiply_add<T>(-along, p, g);
        if (a_.relaxation == Relaxation::lq) g = multiply_add<T>(along, p > total / 2 ? rest : total - p, g);
        g = load(source + c) < T(kLogFloor) ? Vector<T>{} : g * p;
        // A whole vector may run into the next rows, which are written later, but not into another thread's.
        if (i * classes + c + kStep <= end * classes)
          store<T>(out + c, g);
        else
          std::memcpy(out + c, &g, std::min(kStep, std::max<int64_t>(classes - c, 0)) * sizeof(T));
      }
    }
  }

 private:
  void fill(int64_t begin, int64_t end) {
    const int64_t classes = a_.num_classes, last = a_.num_rows * classes;
    Buffer<T> tail(stride_);
    for (int64_t i = begin; i < end; ++i) {
      const T* source = a_.log_probs + i * classes;
      if (i * classes + stride_ > last) {
        std::memcpy(tail.data(), source, classes * sizeof(T));
        std::fill(tail.data() + classes, tail.data() + stride_, T(0));
        source = tail.data();
      }
      T* u = rows_.data() + i * stride_;
      Vector<T> square{};
      for (int64_t c = 0; c < stride_; c += kStep) {
        const Vector<T> x = load(source + c);
        const Vector<T> p = exp<T>(x < T(kLogFloor) ? broadcast<T>(T(kLogFloor)) : x);
        const Vector<T> kept = classes_only(p, c);
        square = multiply_add<T>(kept, kept, square);
        store<T>(u + c, kept);
      }
      if (has_unit_rows(a_.relaxation)) {
        const T scale = 1 / std::sqrt(sum_in_every_lane<T>(square)[0]);
        for (int64_t c = 0; c < stride_; c += kStep) store<T>(u + c, load(u + c) * scale);
      }
      if (a_.relaxation == Relaxation::lq) {
        Vector<T> total, rest, gini{};
        sum_of_others(u, total, rest);
        for (int64_t c = 0; c < stride_; c += kStep) {
          const Vector<T> p = load(u + c);
          gini = multiply_add<T>(p, p > total / 2 ? rest : total - p, gini);
        }
        u[classes] = sum_in_every_lane<T>(gini)[0] / 2;
        u[classes + 1] = 1;
      }
    }
  }

  // The vector from column c on, 0 behind the last class.
  Vector<T> classes_only(Vector<T> v, int64_t c) const {
    return lane_ < static_cast<Bits<T>>(a_.num_classes - c) ? v : Vector<T>{};
  }

  // Sum of a row's probabilities, and of those that are at most half of it: what the one beyond half leaves to the
  // others. For it alone total - p would lose digits.
  void sum_of_others(const T* u, Vector<T>& total, Vector<T>& rest) const {
    total = rest = Vector<T>{};
    const auto probabilities = [&](int64_t c) { return classes_only(load(u + c), c); };
    for (int64_t c = 0; c < stride_; c += kStep) total += probabilities(c);
    total = sum_in_every_lane<T>(total);
    for (int64_t c = 0; c < stride_; c += kStep) {
      const Vector<T> p = probabilities(c);
      rest += p > total / 2 ? Vector<T>{} : p;
    }
    rest = sum_in_every_lane<T>(rest);
  }

  PottsEnergy<T> a_;
  int64_t vectors_, stride_;
  Vector<Bits<T>> lane_;  // 0, 1, 2, ..
  AlignedArray<T> rows_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
