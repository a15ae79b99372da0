#include "kpconv.h"
#include "kpconv_product.h"

namespace pcseg::PCSEG_ISA {
namespace {

// The queries in [begin, end) that list each support row, in ascending order: a transposed neighbour list.
class Listed {
 public:
  template <class T>
  Listed(const KpConv<T>& a, int64_t begin, int64_t end, const Parallel& parallel) : first_(a.num_support + 1) {
    // Counting sort by parts of the queries; the parts follow each other, so their number changes nothing.
    const int64_t parts = std::clamp<int64_t>(parallel.threads(), 1, 8), supports = a.num_support;
    Buffer<int32_t> next(parts * supports);
    const auto each = [&](int64_t part, auto&& f) {
      const int64_t last = begin + (end - begin) * (part + 1) / parts;
      for (int64_t i = begin + (end - begin) * part / parts; i < last; ++i)
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

// One walk over the owners: the gradient of the weights, and, where the owners are the supports, of the feats.
// Owners are queries that collect feats: weights'[k] = sum_m S[m, k]^T grad_out[m], S the weighted sums of feats.
// Owners are supports that collect grad_out from the queries that list them: with their weighted sums G,
//   feats'[j] = sum_k G[j, k] weights[k]^T,  weights'[k] = sum_j feats[j]^T G[j, k].
template <class T>
class LinearBackward {
 public:
  LinearBackward(const KpConv<T>& a, const KpConvGradients<T>& g, const Walk<T>& walk, const Rows<T>& gathered,
                 const PackedWeights<T>* weights, T* grad_feats, const Parallel& parallel)
      : a_(a), g_(g), walk_(walk), gathered_(gathered), weights_(weights), grad_feats_(grad_feats),
        by_support_(walk.first != nullptr),
        owners_(by_support_ ? a.num_support : a.num_query),
        channels_(by_support_ ? a.out_channels : a.in_channels),
        own_{by_support_ ? a.feats : g.grad_out, by_support_ ? a.in_channels : a.out_channels},
        points_(tile_points<T>(owners_, a.kernel_size, channels_)),
        tiles_((owners_ + points_ - 1) / points_),
        sums_{own_, own_.stride, round_up(channels_, kLanes<T>)},
        size_(a.kernel_size * sums_.own_channels * sums_.stride),
        // Chunks of tiles have a sum of the weights' gradient each, of 16 MiB in float together unless one is more.
        chunks_(std::min(tiles_, g.weights ? std::clamp<int64_t>((int64_t{1} << 22) / (size_ + 1), 1, 32) : tiles_)),
        columns_(own_.stride, chunks_, 64),
        partial_(g.weights ? chunks_ : 0) {
    for (Buffer<T>& partial : partial_) partial.grow(size_);
    for_tasks(
        chunks_ * columns_.blocks(), parallel,
        [&] {
          const int64_t room = grad_feats_ ? points_ * columns_.width : 0;
          return std::unique_ptr<Memory>(new Memory{{walk_, points_, channels_}, Buffer<T>(room), {}});
        },
        [&](int64_t task, Memory& m) { run_chunk(task / columns_.blocks(), task % columns_.blocks(), m); });
    if (g.weights) reduce(parallel);
  }

 private:
  struct Memory {
    Tile<T> tile;
    Buffer<T> out, copy;
  };

  void run_chunk(int64_t chunk, int64_t block, Memory& m) {
    const int64_t column = columns_.begin(block), end = columns_.end(block), width = columns_.width;
    if (g_.weights)
      for (int64_t k = 0; k < a_.kernel_size; ++k)
        std::fill_n(&partial_[chunk][(k * own_.stride + column) * sums_.stride], (end - column) * sums_.stride, T(0));
    for (int64_t tile = tiles_ * chunk / chunks_; tile < tiles_ * (chunk + 1) / chunks_; ++tile) {
      const int64_t begin = tile * points_, rows = std::min(points_, owners_ - begin);
      m.tile.find_pairs(begin, begin + rows);
      if (grad_feats_) std::fill_n(m.out.data(), rows * width, T(0));
      channel_blocks<T>(channels_, [&](int64_t channel, int64_t channels, int vectors) {
        m.tile.aggregate(gathered_, channel, vectors);
        if (grad_feats_)
          multiply(m.tile, a_.kernel_size, *weights_, channel, channels, column, end, m.out.data(), width);
        if (g_.weights)
          sums_.add(m.tile, a_.kernel_size, begin, column, end, channel, vectors, partial_[chunk].data(), m.copy);
      });
      for (int64_t r = 0; r < rows && grad_feats_; ++r)
        std::copy_n(&m.out[r * width], end - column, grad_feats_ + (begin + r) * a_.in_channels + column);
    }
  }

  void reduce(const Parallel& parallel) {
    const int64_t own = own_.stride, in = a_.in_channels, out = a_.out_channels;
    parallel.ranges(a_.kernel_size * in, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        T* grad = g_.weights + row * out;
        std::fill_n(grad, out, T(0));
        for (Buffer<T>& chunk : partial_) {
          const T* partial = chunk.data() + (by_support_ ? row * sums_.stride : row / in * own * sums_.stride + row % in);
          const int64_t step = by_support_ ? 1 : sums_.stride;
          for (int64_t o = 0; o < out; ++o) grad[o] += partial[o * step];
        }
      }
    });
  }

  const KpConv<T>& a_;
  const KpConvGradients<T>& g_;
  const Walk<T>& walk_;
  const Rows<T>& gathered_;
  const PackedWeights<T>* weights_;
  T* grad_feats_;
  bool by_support_;
  int64_t owners_, channels_;
  Rows<T> own_;
  int64_t points_, tiles_;
  WeightSums<T> sums_;
  int64_t size_, chunks_;
  Columns columns_;
  std::vector<Buffer<T>> partial_;
};

// The other way, for slabs of queries: P[m, k] = weights[k] grad_out[m] is written down, then
//   modulations'[m, k] = sum_j u <P[m, k], feats[j]>,
//   kernel_offsets'[m, k] = modulation * sum_j <P[m, k], feats[j]> e / (sigma |e|),
//   feats'[j] = sum over the (m, k) that j has pairs with of modulation * u * P[m, k],
// where u is the influence and e = y - kernel_points[k] - kernel_offsets[m, k].
template <class T>
class ProjectedBackward {
 public:
  ProjectedBackward(const KpConv<T>& a, const KpConvGradients<T>& g, const Rows<T>& feats,
                    const PackedWeights<T>& weights, const Parallel& parallel)
      : a_(a), g_(g), feats_(feats), weights_(weights), parallel_(parallel),
        stride_(weights.panels.padded_columns()),
        points_(tile_points<T>(a.num_query, a.kernel_size, kBlockChannels<T>)) {
    const int64_t slab = std::max<int64_t>(1, (int64_t{1} << 22) / (a.kernel_size * stride_ * points_)) * points_;
    rows_.grow(std::min(slab, round_up(a.num_query, points_)) * a.kernel_size * stride_);
    row_of_.grow(std::min(slab, a.num_query) * a.kernel_size);
    if (g.feats) std::fill_n(g.feats, a.num_support * a.in_channels, T(0));
    for (int64_t begin = 0; begin < a.num_query; begin += slab) {
      const int64_t end = std::min(a.num_query, begin + slab);
      project(begin, end);
      if (g.feats) scatter(begin, end);
    }
  }

 private:
  void project(int64_t slab, int64_t slab_end) {
    Walk<T> walk{a_};
    walk.modulated = false;
    for_tasks(
        (slab_end - slab + points_ - 1) / points_, parallel_,
        [&] { return std::unique_ptr<Tile<T>>(new Tile<T>(walk, points_, 0)); },
        [&](int64_t task, Tile<T>& tile) {
          const int64_t begin = slab + task * points_, kernel_size = a_.kernel_size;
          tile.find_pairs(begin, std::min(slab_end, begin + points_));
          int32_t* row_of = &row_of_[(begin - slab) * kernel_size];
          std::fill_n(row_of, tile.size() * kernel_size, 0);
          int64_t row = task * points_ * kernel_size;
          for (int64_t k = 0; k < kernel_size; ++k) {
            const int32_t* active = tile.active(k);
            T* rows = &rows_[row * stride_];
            std::fill_n(rows, tile.count(k) * stride_, T(0));
            weights_.for_panels(k, 0, a_.in_channels, 0, [&](int64_t column, int vectors, int64_t step, const T* panel) {
              product<T>(
                  tile.count(k), [&](int64_t slot) { return g_.grad_out + (begin + active[slot]) * a_.out_channels; }, 1,
                  panel, step, vectors, a_.out_channels, [&](int64_t slot) { return rows + slot * stride_ + column; });
            });
            for (int64_t slot = 0; slot < tile.count(k); ++slot)
              row_of[active[slot] * kernel_size + k] = static_cast<int32_t>(row++);
          }
          if (!g_.kernel_offsets && !g_.modulations) return;
          for (int64_t p = 0; p < tile.size(); ++p)
            for (int64_t k = 0; k < kernel_size; ++k)
              kernel_gradient(tile, p, k, begin + p, &rows_[row_of[p * kernel_size + k] * stride_]);
        });
  }

  void kernel_gradient(const Tile<T>& tile, int64_t p, int64_t k, int64_t query, const T* projected) {
    const int64_t at = query * a_.kernel_size + k, dim = a_.dim;
    T grad_modulation = 0, grad_offset[3] = {};
    for (int64_t e = tile.first(p, k); e < tile.first(p, k + 1); ++e) {
      const T* row = feats_.data + tile.other(e) * feats_.stride;
      Vector<T> products{};
      for (int64_t c = 0; c < stride_; c += kLanes<T>)
        products = multiply_add<T>(load(projected + c), load(row + c), products);
      const T dot = sum_lanes<T>(products);
      grad_modulation += dot * tile.influence(e);
      if (!g_.kernel_offsets) continue;
      T difference[3], sq_dist = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const T point = a_.kernel_points[k * dim + d] + (a_.kernel_offsets ? a_.kernel_offsets[at * dim + d] : T(0));
        difference[d] = (a_.support[tile.other(e) * dim + d] - a_.query[query * dim + d]) - point;
        sq_dist += difference[d] * difference[d];
      }
      const T scale = sq_dist > 0 ? dot / (a_.sigma * std::sqrt(sq_dist)) : T(0);
      for (int64_t d = 0; d < dim; ++d) grad_offset[d] += scale * difference[d];
    }
    if (g_.modulations) g_.modulations[at] = grad_modulation;
    const T modulation = a_.modulations ? a_.modulations[at] : T(1);
    for (int64_t d = 0; d < dim && g_.kernel_offsets; ++d) g_.kernel_offsets[at * dim + d] = modulation * grad_offset[d];
  }

  void scatter(int64_t slab, int64_t slab_end) {
    constexpr int64_t kPoints = 64;
    const Listed listed(a_, slab, slab_end, parallel_);
    const Walk<T> walk = listed.walk(a_);
    for_tasks(
        (a_.num_support + kPoints - 1) / kPoints, parallel_,
        [&] { return std::unique_ptr<Tile<T>>(new Tile<T>(walk, kPoints, a_.in_channels)); },
        [&](int64_t task, Tile<T>& tile) {
          const int64_t begin = task * kPoints, end = std::min(a_.num_support, begin + kPoints);
          if (walk.first[begin] == walk.first[end]) return;
          tile.find_pairs(begin, end);
          tile.redirect(row_of_.data(), slab);
          channel_blocks<T>(a_.in_channels, [&](int64_t channel, int64_t channels, int vectors) {
            std::fill_n(tile.sums(0, 0), tile.size() * tile.width(), T(0));
            tile.aggregate({rows_.data(), stride_}, channel, vectors);
            for (int64_t p = 0; p < tile.size(); ++p) {
              T* grad = g_.feats + (begin + p) * a_.in_channels + channel;
              for (int64_t c = 0; c < channels; ++c) grad[c] += tile.sums(0, p)[c];
            }
          });
        });
  }

  const KpConv<T>& a_;
  const KpConvGradients<T>& g_;
  const Rows<T>& feats_;
  const PackedWeights<T>& weights_;
  const Parallel& parallel_;
  int64_t stride_, points_;
  Buffer<T> rows_;          // P of the active (query, kernel point) of a slab
  Buffer<int32_t> row_of_;  // their row in it, by query and kernel point
};

template <class T>
void backward(const KpConv<T>& a, const KpConvGradients<T>& g, const Parallel& parallel) {
  const bool kernel = g.kernel_offsets || g.modulations;
  // Supports as owners need one walk and two products for both gradients. Queries as owners need two walks, but
  // a product's cost goes with the owners: they pay where queries are few, where the kernel's gradients need the walk
  // anyway, and for the first layer, which wants no gradient of its few features.
  const bool by_query = kernel || a.num_support > a.num_query + a.num_query / 2;
  const bool narrow = !g.feats && a.in_channels <= a.out_channels;
  if (g.weights && (by_query || narrow)) {
    const PaddedRows<T> feats(a.feats, a.num_support, a.in_channels, parallel);
    const Walk<T> walk{a};
    LinearBackward<T>(a, g, walk, *feats, nullptr, nullptr, parallel);
  }
  if (by_query && (g.feats || kernel)) {
    const PaddedRows<T> feats(kernel ? a.feats : nullptr, kernel ? a.num_support : 0, a.in_channels, parallel);
    const PackedWeights<T> weights(a, true, parallel);
    ProjectedBackward<T>(a, g, *feats, weights, parallel);
  }
  if (!by_query && !narrow) {
    const PaddedRows<T> grad_out(g.grad_out, a.num_query, a.out_channels, parallel);
    const PackedWeights<T> weights(a, true, parallel);
    const Listed listed(a, 0, a.num_query, parallel);
    const Walk<T> walk = listed.walk(a);
    LinearBackward<T>(a, g, walk, *grad_out, &weights, g.feats, parallel);
  }
}

}  // namespace

void kpconv_backward(const KpConv<float>& a, const KpConvGradients<float>& g, const Parallel& parallel) {
  backward(a, g, parallel);
}
void kpconv_backward(const KpConv<double>& a, const KpConvGradients<double>& g, const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
