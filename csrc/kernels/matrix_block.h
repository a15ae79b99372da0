// The small matrix product that fused kernels end in: a few rows by a few vectors of columns, summed in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "task_split.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

// kPanelRows x kPanelVectors sums fill the registers and leave room for their factors.
constexpr int kPanelRows = 6, kPanelVectors = kRegisters == 32 ? 4 : 2;
template <class T>
constexpr int kPanelColumns = kPanelVectors* kLanes<T>;

// c[r][0 .. V vectors) += (add) or = sum over d < depth of a[r][d * a_step] * b[d * b_stride + 0 .. V vectors), for R rows.
template <class T>
using BlockProduct = void (*)(const T* const* a, int64_t a_step, const T* b, int64_t b_stride, int64_t depth,
                              T* const* c, bool add);
template <class T, int R, int V>
void block_product(const T* const* a, int64_t a_step, const T* b, int64_t b_stride, int64_t depth, T* const* c, bool add) {
  Vector<T> sum[R][V];
  const T* row[R];
  for (int r = 0; r < R; ++r) {
    row[r] = a[r];
    for (int v = 0; v < V; ++v) sum[r][v] = add ? load(c[r] + v * kLanes<T>) : Vector<T>{};
  }
  for (int64_t d = 0; d < depth; ++d, b += b_stride) {
    Vector<T> column[V];
    for (int v = 0; v < V; ++v) column[v] = load(b + v * kLanes<T>);
    for (int r = 0; r < R; ++r) {
      const Vector<T> factor = broadcast(row[r][d * a_step]);
      for (int v = 0; v < V; ++v) sum[r][v] = multiply_add<T>(factor, column[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(c[r] + v * kLanes<T>, sum[r][v]);
}

template <class T, int... I>
BlockProduct<T> block_product_of(int rows, int vectors, std::integer_sequence<int, I...>) {
  static constexpr BlockProduct<T> table[] = {&block_product<T, I / kPanelVectors + 1, I % kPanelVectors + 1>...};
  return table[(rows - 1) * kPanelVectors + vectors - 1];
}

// The product above for any number of rows, `a(r)` and `c(r)` giving their addresses; at most kPanelVectors vectors.
template <class T, class A, class C>
void product(int64_t rows, A a, int64_t a_step, const T* b, int64_t b_stride, int vectors, int64_t depth, C c,
             bool add = true) {
  for (int64_t first = 0; first < rows; first += kPanelRows) {
    const int n = static_cast<int>(std::min<int64_t>(kPanelRows, rows - first));
    const T* a_rows[kPanelRows];
    T* c_rows[kPanelRows];
    for (int r = 0; r < n; ++r) a_rows[r] = a(first + r), c_rows[r] = c(first + r);
    block_product_of<T>(n, vectors, std::make_integer_sequence<int, kPanelRows * kPanelVectors>())(
        a_rows, a_step, b, b_stride, depth, c_rows, add);
  }
}

// A (depth, columns) matrix as panels of kPanelColumns columns (the last one narrower, padded with zeros to whole
// vectors), each panel's rows one after the other: what `product` reads without a gap.
template <class T>
class Panels {
 public:
  Panels(int64_t depth, int64_t columns) : depth_(depth), padded_(round_up(columns, kLanes<T>)), columns_(columns) {}
  int64_t size() const { return depth_ * padded_; }
  int64_t padded_columns() const { return padded_; }
  int64_t count() const { return (padded_ + kPanelColumns<T> - 1) / kPanelColumns<T>; }
  int64_t first_column(int64_t panel) const { return panel * kPanelColumns<T>; }
  int64_t width(int64_t panel) const { return std::min<int64_t>(kPanelColumns<T>, padded_ - first_column(panel)); }
  int vectors(int64_t panel) const { return static_cast<int>(width(panel) / kLanes<T>); }
  int64_t offset(int64_t panel) const { return depth_ * first_column(panel); }

  // packed[...] = matrix, element (d, c) at matrix[d * row_step + c * column_step]; one of the steps is 1.
  void pack(const T* matrix, int64_t row_step, int64_t column_step, T* packed) const {
    constexpr int64_t kRows = 16;  // a cache line of floats: the transposed matrix is read in squares
    for (int64_t panel = 0; panel < count(); ++panel) {
      const int64_t first = first_column(panel), w = width(panel), real = std::min(w, columns_ - first);
      for (int64_t row = 0; row < depth_; row += kRows) {
        const int64_t end = std::min(depth_, row + kRows);
        if (column_step == 1)
          for (int64_t d = row; d < end; ++d) std::copy_n(matrix + d * row_step + first, real, packed + d * w);
        else
          for (int64_t c = 0; c < real; ++c)
            for (int64_t d = row; d < end; ++d) packed[d * w + c] = matrix[d * row_step + (first + c) * column_step];
        for (int64_t d = row; d < end; ++d) std::fill(packed + d * w + real, packed + (d + 1) * w, T(0));
      }
      packed += depth_ * w;
    }
  }

 private:
  int64_t depth_, padded_, columns_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
