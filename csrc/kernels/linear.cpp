#include "linear.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "matrix_block.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kDepth = 128;     // of a panel: it and the rows' part share the first-level cache
constexpr int64_t kTileRows = 96;   // of a task of the product
constexpr int64_t kBlockRows = 64;  // that one step of the weights' gradient sums over

template <class T>
void multiply_rows(const Linear<T>& a, const Parallel& parallel) {
  const Panels<T> panels(a.in_channels, a.out_channels);
  Buffer<T> packed(panels.size());
  panels.pack(a.matrix, a.in_step, a.out_step, packed.data());
  const int64_t tiles = (a.num_rows + kTileRows - 1) / kTileRows;
  const Columns columns(a.out_channels, tiles, 64);
  const bool whole = a.out_channels % kLanes<T> == 0;  // vectors: they are written where they belong
  for_tasks(
      tiles * columns.blocks(), parallel,
      [&] { return std::unique_ptr<Buffer<T>>(new Buffer<T>(whole ? 0 : kTileRows * columns.width)); },
      [&](int64_t task, Buffer<T>& padded) {
        const int64_t begin = task / columns.blocks() * kTileRows, rows = std::min(kTileRows, a.num_rows - begin);
        const int64_t first = columns.begin(task % columns.blocks()), end = columns.end(task % columns.blocks());
        const T* in = a.rows + begin * a.in_channels;
        T* result = a.out + begin * a.out_channels + first;
        T* out = whole ? result : padded.data();
        const int64_t stride = whole ? a.out_channels : columns.width;
        for (int64_t depth = 0; depth == 0 || depth < a.in_channels; depth += kDepth)
          for (int64_t panel = first / kPanelColumns<T>; panel * kPanelColumns<T> < end; ++panel) {
            const int64_t width = panels.width(panel), column = panels.first_column(panel) - first;
            product<T>(
                rows, [&](int64_t r) { return in + r * a.in_channels + depth; }, 1,
                packed.data() + panels.offset(panel) + depth * width, width, panels.vectors(panel),
                std::min(kDepth, a.in_channels - depth),
                [&](int64_t r) { return out + r * stride + column; }, depth > 0);
          }
        for (int64_t r = 0; r < rows && !whole; ++r)
          std::copy_n(out + r * stride, end - first, result + r * a.out_channels);
      });
}

template <class T>
void sum_weights(const LinearWeights<T>& a, const Parallel& parallel) {
  const int64_t stride = round_up(a.right_channels, kLanes<T>), size = a.left_channels * stride;
  const int64_t chunks = gradient_chunks(a.num_rows, size);
  const Columns columns(a.left_channels, chunks, 64);
  std::vector<Buffer<T>> partial(chunks);
  for (Buffer<T>& chunk : partial) chunk.grow(size);
  struct Memory {
    Buffer<T> left, right;
  };
  for_tasks(
      chunks * columns.blocks(), parallel,
      [&] {
        const int64_t padded = stride == a.right_channels ? 0 : kBlockRows * stride;
        return std::unique_ptr<Memory>(new Memory{Buffer<T>(kBlockRows * Columns::kStep), Buffer<T>(padded)});
      },
      [&](int64_t task, Memory& m) {
        const int64_t chunk = task / columns.blocks(), last = a.num_rows * (chunk + 1) / chunks;
        const int64_t first = columns.begin(task % columns.blocks()), end = columns.end(task % columns.blocks());
        T* sums = partial[chunk].data();
        std::fill_n(sums + first * stride, (end - first) * stride, T(0));
        for (int64_t row = a.num_rows * chunk / chunks; row < last; row += kBlockRows) {
          const int64_t rows = std::min(kBlockRows, last - row);
          const T* right = a.right + row * a.right_channels;
          if (stride != a.right_channels) {
            for (int64_t r = 0; r < rows; ++r) {
              std::copy_n(right + r * a.right_channels, a.right_channels, &m.right[r * stride]);
              std::fill_n(&m.right[r * stride + a.right_channels], stride - a.right_channels, T(0));
            }
            right = m.right.data();
          }
          for (int64_t left = first; left < end; left += Columns::kStep) {
            const int64_t n = std::min(Columns::kStep, end - left);
            for (int64_t r = 0; r < rows; ++r)
              std::copy_n(a.left + (row + r) * a.left_channels + left, n, &m.left[r * Columns::kStep]);
            for (int64_t column = 0; column < stride; column += kPanelColumns<T>)
              product<T>(
                  n, [&](int64_t c) { return &m.left[c]; }, Columns::kStep, right + column, stride,
                  static_cast<int>(std::min<int64_t>(kPanelColumns<T>, stride - column) / kLanes<T>), rows,
                  [&](int64_t c) { return sums + (left + c) * stride + column; });
          }
        }
      });
  parallel.ranges(a.left_channels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* out = a.out + row * a.right_channels;
      std::fill_n(out, a.right_channels, T(0));
      for (const Buffer<T>& chunk : partial)
        for (int64_t c = 0; c < a.right_channels; ++c) out[c] += chunk.data()[row * stride + c];
    }
  });
}

}  // namespace

void linear(const Linear<float>& a, const Parallel& parallel) { multiply_rows(a, parallel); }
void linear(const Linear<double>& a, const Parallel& parallel) { multiply_rows(a, parallel); }
void linear_weights(const LinearWeights<float>& a, const Parallel& parallel) { sum_weights(a, parallel); }
void linear_weights(const LinearWeights<double>& a, const Parallel& parallel) { sum_weights(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
