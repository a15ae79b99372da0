#include "kpconv.h"

#include <atomic>

#include "kpconv_product.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
bool forward(const KpConv<T>& a, T* out, const Parallel& parallel) {
  const PaddedRows<T> feats(a.feats, a.num_support, a.in_channels, parallel);
  const PackedWeights<T> weights(a, false, parallel);
  const Walk<T> walk{a};
  const int64_t points = tile_points<T>(a.num_query, a.kernel_size, a.in_channels);
  const int64_t tiles = (a.num_query + points - 1) / points;
  const Columns columns(a.out_channels, tiles, 128);
  struct Memory {
    Tile<T> tile;
    Buffer<T> out;
  };
  std::atomic<bool> in_range{true};
  for_tasks(
      tiles * columns.blocks(), parallel,
      [&] {
        return std::unique_ptr<Memory>(new Memory{{walk, points, a.in_channels}, Buffer<T>(points * columns.width)});
      },
      [&](int64_t task, Memory& m) {
        const int64_t begin = task / columns.blocks() * points, rows = std::min(points, a.num_query - begin);
        const int64_t column = columns.begin(task % columns.blocks()), end = columns.end(task % columns.blocks());
        if (!m.tile.find_pairs(begin, begin + rows)) in_range = false;
        std::fill_n(m.out.data(), rows * columns.width, T(0));
        channel_blocks<T>(a.in_channels, [&](int64_t channel, int64_t channels, int vectors) {
          m.tile.aggregate(*feats, channel, vectors);
          multiply(m.tile, a.kernel_size, weights, channel, channels, column, end, m.out.data(), columns.width);
        });
        for (int64_t r = 0; r < rows; ++r)
          std::copy_n(&m.out[r * columns.width], end - column, out + (begin + r) * a.out_channels + column);
      });
  return in_range;
}

}  // namespace

bool kpconv(const KpConv<float>& a, float* out, const Parallel& parallel) { return forward(a, out, parallel); }
bool kpconv(const KpConv<double>& a, double* out, const Parallel& parallel) { return forward(a, out, parallel); }

}  // namespace pcseg::PCSEG_ISA
