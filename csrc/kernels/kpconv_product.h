// How a kernel point convolution is cut into tasks, and the products of a tile's sums: with the weights, and with the
// owners' own rows for the gradient of the weights. Every choice here depends on sizes alone, never on the threads, so
// that results do not either.
#pragma once

#include <algorithm>

#include "kpconv_tile.h"
#include "matrix_block.h"
#include "padded_rows.h"
#include "task_split.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Points of a tile whose sums, for one channel block and all kernel points, stay in the second-level cache.
template <class T>
int64_t cached_points(int64_t kernel_size, int64_t channels) {
  const int64_t width = std::min<int64_t>(kBlockChannels<T>, round_up(channels, kLanes<T>));
  return std::clamp<int64_t>(400'000 / (kernel_size * width * static_cast<int64_t>(sizeof(T))), 12, 192);
}

// As many, or fewer where the cloud is small, so that there is work for several threads.
template <class T>
int64_t tile_points(int64_t owners, int64_t kernel_size, int64_t channels) {
  return std::clamp<int64_t>(round_up((owners + 7) / 8, 12), 12, cached_points<T>(kernel_size, channels));
}

// weights (kernel_size, in, out), or each slice's transpose, as panels, one kernel point after the other.
template <class T>
struct PackedWeights {
  Panels<T> panels;
  Buffer<T> packed;

  PackedWeights(const KpConv<T>& a, bool transpose, const Parallel& parallel)
      : panels(transpose ? a.out_channels : a.in_channels, transpose ? a.in_channels : a.out_channels),
        packed(a.kernel_size * panels.size()) {
    parallel.ranges(a.kernel_size, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        panels.pack(a.weights + k * a.in_channels * a.out_channels, transpose ? 1 : a.out_channels,
                    transpose ? a.out_channels : 1, packed.data() + k * panels.size());
    });
  }

  // f(first column of the panel from `begin`, vectors, row step, the panel's row `depth`).
  template <class F>
  void for_panels(int64_t k, int64_t begin, int64_t end, int64_t depth, F&& f) const {
    for (int64_t panel = begin / kPanelColumns<T>; panel * kPanelColumns<T> < end; ++panel) {
      const int64_t width = panels.width(panel);
      f(panels.first_column(panel) - begin, panels.vectors(panel), width,
        packed.data() + k * panels.size() + panels.offset(panel) + depth * width);
    }
  }
};

// out[p] += sums(p) @ weights: input channels [channel, channel + depth), which the tile's sums hold, by columns
// [begin, end), which out's rows of `stride` hold.
template <class T>
void multiply(Tile<T>& tile, int64_t kernel_size, const PackedWeights<T>& weights, int64_t channel, int64_t depth,
              int64_t begin, int64_t end, T* out, int64_t stride) {
  for (int64_t k = 0; k < kernel_size; ++k) {
    const int32_t* active = tile.active(k);
    weights.for_panels(k, begin, end, channel, [&](int64_t column, int vectors, int64_t row_step, const T* panel) {
      product<T>(
          tile.count(k), [&](int64_t slot) { return tile.sums(k, slot); }, 1, panel, row_step, vectors, depth,
          [&](int64_t slot) { return out + active[slot] * stride + column; });
    });
  }
}

// The gradient of the weights, summed over owners: grad[k][i][c] += own[owner][i] * sums(k, owner)[c], for i in
// [begin, end) and the channels from `channel` that the tile's sums hold. grad (kernel_size, own_channels, stride).
template <class T>
struct WeightSums {
  Rows<T> own;
  int64_t own_channels, stride;

  void add(Tile<T>& tile, int64_t kernel_size, int64_t first_owner, int64_t begin, int64_t end, int64_t channel,
           int vectors, T* grad, Buffer<T>& copy) const {
    constexpr int64_t kOwnBlock = 64;  // so many channels of a tile's own rows and its sums share the first-level cache
    copy.grow(tile.size() * kOwnBlock);
    for (int64_t k = 0; k < kernel_size; ++k) {
      const int64_t rows = tile.count(k);
      for (int64_t i = begin; i < end; i += kOwnBlock) {
        const int64_t n = std::min(kOwnBlock, end - i);
        for (int64_t slot = 0; slot < rows; ++slot)
          std::copy_n(own.data + (first_owner + tile.active(k)[slot]) * own.stride + i, n, &copy[slot * kOwnBlock]);
        for (int v = 0; v < vectors; v += kPanelVectors)
          product<T>(
              n, [&](int64_t c) { return &copy[c]; }, kOwnBlock, tile.sums(k, 0) + v * kLanes<T>, tile.width(),
              std::min(kPanelVectors, vectors - v), rows,
              [&](int64_t c) { return grad + (k * own_channels + i + c) * stride + channel + v * kLanes<T>; });
      }
    }
  }
};

// f(channel, channels, vectors) for each block of channels whose sums a tile holds at a time.
template <class T, class F>
void channel_blocks(int64_t channels, F&& f) {
  for (int64_t c = 0; c < channels; c += kBlockChannels<T>) {
    const int64_t n = std::min<int64_t>(kBlockChannels<T>, channels - c);
    f(c, n, static_cast<int>(round_up(n, kLanes<T>) / kLanes<T>));
  }
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
