// Rows that may be read in whole vectors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "task_split.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
struct Rows {
  const T* data;
  int64_t stride;
};

// Rows copied where their length is no multiple of a vector.
template <class T>
class PaddedRows {
 public:
  PaddedRows(const T* data, int64_t rows, int64_t channels, const Parallel& parallel) : rows_{data, channels} {
    if (channels % kLanes<T> == 0) return;
    const int64_t stride = round_up(channels, kLanes<T>);
    copy_.grow(rows * stride);
    T* copy = copy_.data();
    parallel.ranges(rows, 1024, [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        std::copy_n(data + r * channels, channels, copy + r * stride);
        std::fill(copy + r * stride + channels, copy + (r + 1) * stride, T(0));
      }
    });
    rows_ = {copy, stride};
  }
  const Rows<T>& operator*() const { return rows_; }
  const Rows<T>* operator->() const { return &rows_; }

 private:
  Buffer<T> copy_;
  Rows<T> rows_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
