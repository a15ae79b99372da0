#include "counting_sort.h"
#include "kpconv.h"
#include "kpconv_product.h"

namespace pcseg::PCSEG_ISA {
namespace {

// The queries that list each support row, in ascending order: a transposed neighbour list.
class Listed {
 public:
  template <class T>
  Listed(const KpConv<T>& a, const Parallel& parallel) {
    const auto each = [&](int64_t begin, int64_t end, auto&& f) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t h = 0; h < a.num_neighbors; ++h) {
          const int64_t j = a.neighbors[i * a.num_neighbors + h];
          if (static_cast<uint64_t>(j) < static_cast<uint64_t>(a.num_support)) f(j, i);
        }
    };
    sort_by_support(
        a.num_query, a.num_support, first_, parallel, each, [&](int64_t total) { index_.grow(total); },
        [&](int64_t to, int64_t i) { index_[to] = static_cast<int32_t>(i); });
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
        sums_{own_, own_.stride, round_up(channels_, kLanes<T>)},
        size_(a.kernel_size * sums_.own_channels * sums_.stride),
        points_(g.weights ? cached_points<T>(a.kernel_size, channels_)
                          : tile_points<T>(owners_, a.kernel_size, channels_)),
        tiles_((owners_ + points_ - 1) / points_),
        chunks_(g.weights ? gradient_chunks(owners_, size_) : tiles_),
        columns_(own_.stride, chunks_, 64),
        in_place_(g.weights && chunks_ == 1 && by_support_ && sums_.stride == channels_),
        partial_(g.weights && !in_place_ ? chunks_ : 0) {
    for (Buffer<T>& partial : partial_) partial.grow(size_);
    for_tasks(
        chunks_ * columns_.blocks(), parallel,
        [&] {
          const int64_t room = grad_feats_ ? points_ * columns_.width : 0;
          return std::unique_ptr<Memory>(new Memory{{walk_, points_, channels_}, Buffer<T>(room), {}});
        },
        [&](int64_t task, Memory& m) { run_chunk(task / columns_.blocks(), task % columns_.blocks(), m); });
    if (g.weights && !in_place_) reduce(parallel);
  }

 private:
  struct Memory {
    Tile<T> tile;
    Buffer<T> out, copy;
  };

  void run_chunk(int64_t chunk, int64_t block, Memory& m) {
    const int64_t column = columns_.begin(block), end = columns_.end(block), width = columns_.width;
    T* grad_weights = in_place_ ? g_.weights : g_.weights ? partial_[chunk].data() : nullptr;
    for (int64_t k = 0; k < a_.kernel_size && grad_weights; ++k)
      std::fill_n(grad_weights + (k * own_.stride + column) * sums_.stride, (end - column) * sums_.stride, T(0));
    for (int64_t tile = tiles_ * chunk / chunks_; tile < tiles_ * (chunk + 1) / chunks_; ++tile) {
      const int64_t begin = tile * points_, rows = std::min(points_, owners_ - begin);
      m.tile.find_pairs(begin, begin + rows);
      if (grad_feats_) std::fill_n(m.out.data(), rows * width, T(0));
      channel_blocks<T>(channels_, [&](int64_t channel, int64_t channels, int vectors) {
        m.tile.aggregate(gathered_, channel, vectors);
        if (grad_feats_)
          multiply(m.tile, a_.kernel_size, *weights_, channel, channels, column, end, m.out.data(), width);
        if (grad_weights)
          sums_.add(m.tile, a_.kernel_size, begin, column, end, channel, vectors, grad_weights, m.copy);
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
  WeightSums<T> sums_;
  int64_t size_, points_, tiles_, chunks_;
  Columns columns_;
  bool in_place_;                   // there is one chunk, and the gradient of the weights has its layout
  std::vector<Buffer<T>> partial_;  // else: the gradient of the weights of each chunk of tiles
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
    const int64_t tiles = (a.num_query + points_ - 1) / points_;
    const int64_t slab = std::clamp<int64_t>((int64_t{1} << 22) / (a.kernel_size * stride_ * points_), 1, tiles + 1);
    rows_.grow(std::min(slab, tiles) * points_ * a.kernel_size * stride_);
    lists_.resize(std::min(slab, tiles));
    if (g.feats) std::fill_n(g.feats, a.num_support * a.in_channels, T(0));
    if (g.kernel_offsets) std::fill_n(g.kernel_offsets, a.num_query * a.kernel_size * a.dim, T(0));
    if (g.modulations) std::fill_n(g.modulations, a.num_query * a.kernel_size, T(0));
    for (int64_t tile = 0; tile < tiles; tile += slab) {
      const int64_t count = std::min(slab, tiles - tile);
      project(tile, count);
      if (g.feats) scatter(count);
    }
  }

 private:
  // A tile's pairs: feats'[support] gets influence * rows_[row].
  struct PairList {
    int64_t size = 0;
    Buffer<int32_t> support, row;
    Buffer<T> influence;
  };

  void project(int64_t first_tile, int64_t tiles) {
    Walk<T> walk{a_};
    walk.modulated = false;
    for_tasks(
        tiles, parallel_, [&] { return std::unique_ptr<Tile<T>>(new Tile<T>(walk, points_, 0)); },
        [&](int64_t task, Tile<T>& tile) {
          const int64_t begin = (first_tile + task) * points_, kernel_size = a_.kernel_size;
          tile.find_pairs(begin, std::min(a_.num_query, begin + points_));
          PairList& list = lists_[task];
          list.size = 0;
          list.support.grow(tile.pairs()), list.row.grow(tile.pairs()), list.influence.grow(tile.pairs());
          int64_t row = task * points_ * kernel_size;
          for (int64_t k = 0; k < kernel_size; ++k) {
            const int32_t* active = tile.active(k);
            const int64_t count = tile.count(k);
            T* rows = &rows_[row * stride_];
            std::fill_n(rows, count * stride_, T(0));
            weights_.for_panels(k, 0, a_.in_channels, 0, [&](int64_t column, int vectors, int64_t step, const T* panel) {
              product<T>(
                  count, [&](int64_t slot) { return g_.grad_out + (begin + active[slot]) * a_.out_channels; }, 1, panel,
                  step, vectors, a_.out_channels, [&](int64_t slot) { return rows + slot * stride_ + column; });
            });
            for (int64_t slot = 0; slot < count; ++slot, ++row) use_row(tile, active[slot], k, begin, row, list);
          }
        });
  }

  // One (query, kernel point): the kernel's gradients, and what its pairs will add to feats'.
  void use_row(const Tile<T>& tile, int64_t p, int64_t k, int64_t begin, int64_t row, PairList& list) {
    const int64_t query = begin + p, at = query * a_.kernel_size + k;
    const T modulation = a_.modulations ? a_.modulations[at] : T(1);
    T grad_modulation = 0, grad_offset[3] = {};
    for (int64_t e = tile.first(p, k); e < tile.first(p, k + 1); ++e) {
      list.support[list.size] = tile.other(e);
      list.row[list.size] = static_cast<int32_t>(row);
      list.influence[list.size++] = modulation * tile.influence(e);
      if (!g_.kernel_offsets && !g_.modulations) continue;
      const T *projected = &rows_[row * stride_], *feats = feats_.data + tile.other(e) * feats_.stride;
      Vector<T> products{};
      for (int64_t c = 0; c < stride_; c += kLanes<T>)
        products = multiply_add<T>(load(projected + c), load(feats + c), products);
      const T dot = sum_lanes<T>(products);
      grad_modulation += dot * tile.influence(e);
      T difference[3], sq_dist = 0;
      for (int64_t d = 0; d < a_.dim && g_.kernel_offsets; ++d) {
        const T point = a_.kernel_points[k * a_.dim + d] + a_.kernel_offsets[at * a_.dim + d];
        difference[d] = (a_.support[tile.other(e) * a_.dim + d] - a_.query[query * a_.dim + d]) - point;
        sq_dist += difference[d] * difference[d];
      }
      if (sq_dist == 0) continue;
      const T scale = dot / (a_.sigma * std::sqrt(sq_dist));
      for (int64_t d = 0; d < a_.dim; ++d) grad_offset[d] += scale * difference[d];
    }
    if (g_.modulations) g_.modulations[at] = grad_modulation;
    for (int64_t d = 0; d < a_.dim && g_.kernel_offsets; ++d)
      g_.kernel_offsets[at * a_.dim + d] = modulation * grad_offset[d];
  }

  void scatter(int64_t tiles) {
    const auto each = [&](int64_t begin, int64_t end, auto&& f) {
      for (int64_t tile = begin; tile < end; ++tile)
        for (int64_t e = 0; e < lists_[tile].size; ++e) f(lists_[tile].support[e], tile << 32 | e);
    };
    sort_by_support(
        tiles, a_.num_support, first_, parallel_, each,
        [&](int64_t total) { sorted_row_.grow(total), sorted_influence_.grow(total); },
        [&](int64_t to, int64_t item) {
          const PairList& list = lists_[item >> 32];
          sorted_row_[to] = list.row.data()[item & 0xffffffff];
          sorted_influence_[to] = list.influence.data()[item & 0xffffffff];
        });
    parallel_.ranges(a_.num_support, 64, [&](int64_t begin, int64_t end) {
      channel_blocks<T>(a_.in_channels, [&](int64_t channel, int64_t channels, int vectors) {
        with_vectors(vectors, [&](auto v) { add_rows<v>(begin, end, channel, channels); });
      });
    });
  }

  template <int V>
  void add_rows(int64_t begin, int64_t end, int64_t channel, int64_t channels) {
    const T *influence = sorted_influence_.data(), *base = rows_.data() + channel;
    const int32_t* rows = sorted_row_.data();
    const int64_t stride = stride_;
    T sums[kBlockChannels<T>] = {};
    for (int64_t j = begin; j < end; ++j) {
      if (first_[j] == first_[j + 1]) continue;
      Vector<T> sum[V] = {};
      for (int64_t e = first_[j]; e < first_[j + 1]; ++e) {
        const Vector<T> factor = broadcast(influence[e]);
        const T* row = base + rows[e] * stride;
        for (int v = 0; v < V; ++v) sum[v] = multiply_add<T>(factor, load(row + v * kLanes<T>), sum[v]);
      }
      for (int v = 0; v < V; ++v) store(sums + v * kLanes<T>, sum[v]);
      T* grad = g_.feats + j * a_.in_channels + channel;
      for (int64_t c = 0; c < channels; ++c) grad[c] += sums[c];
    }
  }

  const KpConv<T>& a_;
  const KpConvGradients<T>& g_;
  const Rows<T>& feats_;
  const PackedWeights<T>& weights_;
  const Parallel& parallel_;
  int64_t stride_, points_;
  Buffer<T> rows_;               // P of the active (query, kernel point) of a slab
  std::vector<PairList> lists_;  // by tile of the slab
  Buffer<int64_t> first_;        // the same pairs by support row
  Buffer<int32_t> sorted_row_;
  Buffer<T> sorted_influence_;
};

template <class T>
void backward(const KpConv<T>& a, const KpConvGradients<T>& g, const Parallel& parallel) {
  const bool kernel = g.kernel_offsets || g.modulations;
  // Supports as owners: one walk and two products for both gradients. Queries as owners: two walks and a sort, but a
  // product's cost goes with the owners. They pay where queries are few, where the kernel's gradients need that walk
  // anyway, and for the first layer, which wants no gradient of its few features.
  const bool by_query = a.kernel_offsets || a.modulations || a.num_support > a.num_query + a.num_query / 2;
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
    const Listed listed(a, parallel);
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
