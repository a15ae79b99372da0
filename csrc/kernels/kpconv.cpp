#include "kpconv.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "kpconv_tile.h"
#include "matrix_block.h"

namespace pcseg::PCSEG_ISA {
namespace {

// weights (kernel_size, in, out), or each slice's transpose, as panels one kernel point after the other.
template <class T>
Buffer<T> pack_weights(const KpConv<T>& a, const Panels<T>& panels, bool transpose, const Parallel& parallel) {
  Buffer<T> packed(a.kernel_size * panels.size());
  T* out = packed.data();
  parallel.ranges(a.kernel_size, 1, [&, out](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const T* slice = a.weights + k * a.in_channels * a.out_channels;
      panels.pack(slice, transpose ? 1 : a.out_channels, transpose ? a.out_channels : 1, out + k * panels.size());
    }
  });
  return packed;
}

// out[active point] += sums @ weights, for the channels [channel, channel + depth) that the tile's sums hold.
template <class T>
void multiply(Tile<T>& tile, int64_t kernel_size, const Panels<T>& panels, const T* packed, int64_t channel,
              int64_t depth, T* out) {
  for (int64_t k = 0; k < kernel_size; ++k) {
    const int32_t* active = tile.active(k);
    for (int64_t panel = 0; panel < panels.count(); ++panel) {
      const int64_t width = panels.width(panel);
      product<T>(
          tile.count(k), [&](int64_t slot) { return tile.sums(k, slot); }, 1,
          packed + k * panels.size() + panels.offset(panel) + channel * width, width, panels.vectors(panel), depth,
          [&](int64_t slot) { return out + active[slot] * panels.padded_columns() + panels.first_column(panel); });
    }
  }
}

// grad[k][i][channel + c] += sum over active points of own[point][i] * sums[c]; grad (kernel_size, own.channels, stride).
template <class T>
void accumulate_weights(Tile<T>& tile, int64_t kernel_size, const Rows<T>& own, int64_t first_owner, int64_t channel,
                        int vectors, T* grad, int64_t stride, Buffer<T>& copy) {
  constexpr int64_t kOwnChannels = 64;  // a tile's rows of so many channels and the sums share the first-level cache
  copy.grow(tile.size() * kOwnChannels);
  for (int64_t k = 0; k < kernel_size; ++k) {
    const int64_t rows = tile.count(k);
    for (int64_t i = 0; i < own.channels; i += kOwnChannels) {
      const int64_t n = std::min(kOwnChannels, own.channels - i);
      for (int64_t slot = 0; slot < rows; ++slot)
        std::copy_n(own.data + (first_owner + tile.active(k)[slot]) * own.stride + i, n, &copy[slot * kOwnChannels]);
      for (int v = 0; v < vectors; v += kPanelVectors)
        product<T>(
            n, [&](int64_t c) { return &copy[c]; }, kOwnChannels, tile.sums(k, 0) + v * kLanes<T>, tile.width(),
            std::min(kPanelVectors, vectors - v), rows,
            [&](int64_t c) { return grad + (k * own.channels + i + c) * stride + channel + v * kLanes<T>; });
    }
  }
}

// Calls f(channel, channels, vectors) for each block of channels whose sums a tile holds at a time.
template <class T, class F>
void channel_blocks(int64_t channels, F&& f) {
  for (int64_t c = 0; c < channels; c += kBlockChannels<T>) {
    const int64_t n = std::min<int64_t>(kBlockChannels<T>, channels - c);
    f(c, n, static_cast<int>(round_up(n, kLanes<T>) / kLanes<T>));
  }
}

// The queries that list each support row, in ascending order: a transposed neighbour list.
class Listed {
 public:
  template <class T>
  Listed(const KpConv<T>& a, const Parallel& parallel) : first_(a.num_support + 1) {
    // Counting sort by parts of the queries; the parts follow each other, so their number changes nothing.
    const int64_t parts = std::clamp<int64_t>(parallel.threads(), 1, 8), supports = a.num_support;
    Buffer<int32_t> next(parts * supports);
    const auto each = [&](int64_t part, auto&& f) {
      const int64_t begin = a.num_query * part / parts, end = a.num_query * (part + 1) / parts;
      for (int64_t i = begin; i < end; ++i)
        for (int64_t h = 0; h < a.num_neighbors; ++h) {
          const int64_t j = a.neighbors[i * a.num_neighbors + h];
          if (static_cast<uint64_t>(j) < static_cast<uint64_t>(supports)) f(i, j);
        }
    };
    parallel.tasks(parts, [&](int64_t part, int) {
      int32_t* count = next.data() + part * supports;
      std::fill_n(count, supports, 0);
      each(part, [&](int64_t, int64_t j) { ++count[j]; });
    });
    int64_t total = 0;
    for (int64_t j = 0; j < supports; ++j) {
      first_[j] = total;
      int32_t before = 0;
      for (int64_t part = 0; part < parts; ++part) {
        int32_t& count = next[part * supports + j];
        before += count;
        count = before - count;
      }
      total += before;
    }
    first_[supports] = total;
    index_.grow(total);
    parallel.tasks(parts, [&](int64_t part, int) {
      int32_t* count = next.data() + part * supports;
      each(part, [&](int64_t i, int64_t j) { index_[first_[j] + count[j]++] = static_cast<int32_t>(i); });
    });
  }
  template <class T>
  Walk<T> walk(const KpConv<T>& a) const {
    return {a, first_.data(), index_.data()};
  }

 private:
  Buffer<int64_t> first_;
  Buffer<int32_t> index_;
};

// f(begin, end, worker memory) for each tile of owners; `make` builds the memory.
template <class Make, class F>
void for_tiles(int64_t owners, int64_t points, const Parallel& parallel, Make&& make, F&& f) {
  std::vector<decltype(make())> memory(parallel.threads());
  parallel.tasks((owners + points - 1) / points, [&](int64_t tile, int worker) {
    if (!memory[worker]) memory[worker] = make();
    f(tile * points, std::min(owners, (tile + 1) * points), *memory[worker]);
  });
}

template <class T>
void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t channels, T* to) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * stride, channels, to + r * channels);
}

template <class T>
bool forward(const KpConv<T>& a, T* out, const Parallel& parallel) {
  const PaddedRows<T> feats(a.feats, a.num_support, a.in_channels, parallel);
  const Panels<T> panels(a.in_channels, a.out_channels);
  const Buffer<T> packed = pack_weights(a, panels, false, parallel);
  const Walk<T> walk{a};
  const int64_t points = tile_points<T>(a.num_query, a.kernel_size, a.in_channels);
  struct Memory {
    Tile<T> tile;
    Buffer<T> out;
  };
  std::atomic<bool> in_range{true};
  for_tiles(
      a.num_query, points, parallel,
      [&] {
        return std::unique_ptr<Memory>(
            new Memory{{walk, points, a.in_channels}, Buffer<T>(points * panels.padded_columns())});
      },
      [&](int64_t begin, int64_t end, Memory& m) {
        if (!m.tile.find_pairs(begin, end)) in_range = false;
        m.tile.list_active();
        std::fill_n(m.out.data(), (end - begin) * panels.padded_columns(), T(0));
        channel_blocks<T>(a.in_channels, [&](int64_t channel, int64_t channels, int vectors) {
          m.tile.aggregate(*feats, channel, vectors);
          multiply(m.tile, a.kernel_size, panels, packed.data(), channel, channels, m.out.data());
        });
        copy_rows(m.out.data(), panels.padded_columns(), end - begin, a.out_channels, out + begin * a.out_channels);
      });
  return in_range;
}

// Gradients of feats and weights: each support row collects grad_out from the queries that list it,
//   G[j, k] = sum over queries m of influence * grad_out[m],  feats' = sum_k G[j, k] weights[k]^T,
//   weights'[k] = sum_j feats[j]^T G[j, k].
template <class T>
void backward_linear(const KpConv<T>& a, const KpConvGradients<T>& g, const Rows<T>& grad_out,
                     const Parallel& parallel) {
  const Listed listed(a, parallel);
  const Walk<T> walk = listed.walk(a);
  const Panels<T> panels(a.out_channels, a.in_channels);
  const Buffer<T> packed = g.feats ? pack_weights(a, panels, true, parallel) : Buffer<T>();
  const Rows<T> feats{a.feats, a.in_channels, a.in_channels};
  const int64_t points = tile_points<T>(a.num_support, a.kernel_size, a.out_channels);
  const int64_t tiles = (a.num_support + points - 1) / points;
  // The weights' gradient is summed in chunks of tiles: their number depends on sizes alone, so the threads change
  // nothing, and their memory is bounded.
  const int64_t stride = round_up(a.out_channels, kLanes<T>), sums = a.kernel_size * a.in_channels * stride;
  const int64_t chunks = std::min(tiles, std::clamp<int64_t>((int64_t{1} << 24) / (sums + 1), 4, 32));
  std::vector<Buffer<T>> partial(g.weights ? chunks : 0);
  struct Memory {
    Tile<T> tile;
    Buffer<T> out, copy;
  };
  const auto run_tile = [&](int64_t tile, Memory& m, T* grad_weights) {
    const int64_t begin = tile * points, end = std::min(a.num_support, begin + points);
    m.tile.find_pairs(begin, end);
    m.tile.list_active();
    std::fill_n(m.out.data(), (end - begin) * panels.padded_columns(), T(0));
    channel_blocks<T>(a.out_channels, [&](int64_t channel, int64_t channels, int vectors) {
      m.tile.aggregate(grad_out, channel, vectors);
      if (g.feats) multiply(m.tile, a.kernel_size, panels, packed.data(), channel, channels, m.out.data());
      if (grad_weights)
        accumulate_weights(m.tile, a.kernel_size, feats, begin, channel, vectors, grad_weights, stride, m.copy);
    });
    if (g.feats)
      copy_rows(m.out.data(), panels.padded_columns(), end - begin, a.in_channels, g.feats + begin * a.in_channels);
  };
  const int64_t tasks = g.weights ? chunks : tiles;
  for_tiles(
      tasks, 1, parallel,
      [&] {
        return std::unique_ptr<Memory>(
            new Memory{{walk, points, a.out_channels}, Buffer<T>(points * panels.padded_columns()), {}});
      },
      [&](int64_t task, int64_t, Memory& m) {
        T* grad_weights = nullptr;
        if (g.weights) {
          partial[task].grow(sums);
          grad_weights = partial[task].data();
          std::fill_n(grad_weights, sums, T(0));
        }
        for (int64_t tile = tiles * task / tasks; tile < tiles * (task + 1) / tasks; ++tile)
          run_tile(tile, m, grad_weights);
      });
  if (!g.weights) return;
  parallel.ranges(a.kernel_size * a.in_channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* out = g.weights + row * a.out_channels;
      std::fill_n(out, a.out_channels, T(0));
      for (const Buffer<T>& chunk : partial)
        for (int64_t o = 0; o < a.out_channels; ++o) out[o] += chunk.data()[row * stride + o];
    }
  });
}

// Gradients of kernel_offsets and modulations. With P[m, k] = weights[k] grad_out[m] and u the influence, a pair adds
//   modulations'[m, k] += u <P, feats[j]>,  kernel_offsets'[m, k] += modulation <P, feats[j]> e / (sigma |e|)
// where e = y - kernel_points[k] - kernel_offsets[m, k].
template <class T>
void backward_kernel(const KpConv<T>& a, const KpConvGradients<T>& g, const Rows<T>& grad_out,
                     const Parallel& parallel) {
  const PaddedRows<T> feats(a.feats, a.num_support, a.in_channels, parallel);
  const Panels<T> panels(a.out_channels, a.in_channels);
  const Buffer<T> packed = pack_weights(a, panels, true, parallel);
  Walk<T> walk{a};
  walk.modulated = false;
  const int64_t points = tile_points<T>(a.num_query, a.kernel_size, a.in_channels), dim = a.dim;
  struct Memory {
    Tile<T> tile;
    Buffer<T> dots;
  };
  const auto project = [&](Tile<T>& tile, int64_t begin, int64_t k, int64_t channel, int vectors) {
    std::fill_n(tile.sums(k, 0), tile.count(k) * tile.width(), T(0));
    for (int v = 0; v < vectors; v += kPanelVectors) {
      const int64_t panel = (channel + v * kLanes<T>) / kPanelColumns<T>;
      product<T>(
          tile.count(k), [&](int64_t slot) { return grad_out.data + (begin + tile.active(k)[slot]) * grad_out.stride; },
          1, packed.data() + k * panels.size() + panels.offset(panel), panels.width(panel), panels.vectors(panel),
          a.out_channels, [&](int64_t slot) { return tile.sums(k, slot) + v * kLanes<T>; });
    }
  };
  const auto add_gradient = [&](const Tile<T>& tile, int64_t begin, const T* dots, int64_t p, int64_t k) {
    const int64_t m = begin + p, at = m * a.kernel_size + k;
    T grad_modulation = 0, grad_offset[3] = {};
    for (int64_t e = tile.first(p, k); e < tile.first(p, k + 1); ++e) {
      grad_modulation += dots[e] * tile.influence(e);
      if (!g.kernel_offsets) continue;
      T difference[3], sq_dist = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const T offset = a.kernel_offsets ? a.kernel_offsets[at * dim + d] : T(0);
        difference[d] = (a.support[tile.other(e) * dim + d] - a.query[m * dim + d]) - (a.kernel_points[k * dim + d] + offset);
        sq_dist += difference[d] * difference[d];
      }
      const T scale = sq_dist > 0 ? dots[e] / (a.sigma * std::sqrt(sq_dist)) : T(0);
      for (int64_t d = 0; d < dim; ++d) grad_offset[d] += scale * difference[d];
    }
    if (g.modulations) g.modulations[at] = grad_modulation;
    const T modulation = a.modulations ? a.modulations[at] : T(1);
    for (int64_t d = 0; d < dim && g.kernel_offsets; ++d) g.kernel_offsets[at * dim + d] = modulation * grad_offset[d];
  };
  for_tiles(
      a.num_query, points, parallel,
      [&] { return std::unique_ptr<Memory>(new Memory{{walk, points, a.in_channels}, {}}); },
      [&](int64_t begin, int64_t end, Memory& m) {
        Tile<T>& tile = m.tile;
        tile.find_pairs(begin, end);
        tile.list_active();
        m.dots.grow(tile.pairs());
        T* dots = m.dots.data();
        std::fill_n(dots, tile.pairs(), T(0));
        channel_blocks<T>(a.in_channels, [&](int64_t channel, int64_t, int vectors) {
          for (int64_t k = 0; k < a.kernel_size; ++k) {
            project(tile, begin, k, channel, vectors);
            for (int64_t slot = 0; slot < tile.count(k); ++slot) {
              const int64_t p = tile.active(k)[slot];
              const T* projected = tile.sums(k, slot);
              for (int64_t e = tile.first(p, k); e < tile.first(p, k + 1); ++e) {
                const T* row = (*feats).data + tile.other(e) * (*feats).stride + channel;
                Vector<T> sum{};
                for (int v = 0; v < vectors; ++v)
                  sum = multiply_add<T>(load(projected + v * kLanes<T>), load(row + v * kLanes<T>), sum);
                dots[e] += sum_lanes<T>(sum);
              }
            }
          }
        });
        for (int64_t p = 0; p < end - begin; ++p)
          for (int64_t k = 0; k < a.kernel_size; ++k) add_gradient(tile, begin, dots, p, k);
      });
}

template <class T>
void backward(const KpConv<T>& a, const KpConvGradients<T>& g, const Parallel& parallel) {
  const PaddedRows<T> grad_out(g.grad_out, a.num_query, a.out_channels, parallel);
  if (g.feats || g.weights) backward_linear(a, g, *grad_out, parallel);
  if (g.kernel_offsets || g.modulations) backward_kernel(a, g, *grad_out, parallel);
}

}  // namespace

bool kpconv(const KpConv<float>& a, float* out, const Parallel& parallel) { return forward(a, out, parallel); }
bool kpconv(const KpConv<double>& a, double* out, const Parallel& parallel) { return forward(a, out, parallel); }
void kpconv_backward(const KpConv<float>& a, const KpConvGradients<float>& g, const Parallel& parallel) {
  backward(a, g, parallel);
}
void kpconv_backward(const KpConv<double>& a, const KpConvGradients<double>& g, const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
