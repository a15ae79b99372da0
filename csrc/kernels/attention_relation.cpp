#include <atomic>

#include "attention_pairs.h"

namespace pcseg::PCSEG_ISA {
namespace {

// The matrix and the norm that turn differences into relations, padded to whole vectors.
template <class T>
struct RelationInputs {
  const AttentionRelation<T>& a;
  PairInputs<T> pairs;
  Buffer<T> scale, shift;

  RelationInputs(const AttentionRelation<T>& relation, const Parallel& parallel)
      : a(relation),
        pairs(a.pairs, true, parallel),
        scale(padded_copy(a.scale, a.pairs.channels, pairs.stride)),
        shift(padded_copy(a.shift, a.pairs.channels, pairs.stride)) {}
};

template <class T>
bool forward(const AttentionRelation<T>& a, T* out, const Parallel& parallel) {
  const RelationInputs<T> in(a, parallel);
  const int64_t width = a.out_channels;
  const BlockMatrix<T> weight(a.weight, a.pairs.channels, width, 1, a.pairs.channels);
  const int64_t padded = weight.columns();
  const Buffer<T> bias = padded_copy(a.bias, width, padded);
  struct Memory {
    PairBlock<T> block;
    Buffer<T> out;
  };
  std::atomic<bool> in_range{true};
  for_parts(
      a.pairs.num_query, a.pairs.num_query * a.pairs.num_neighbors, parallel,
      [&] {
        return std::unique_ptr<Memory>(new Memory{PairBlock<T>(in.pairs), Buffer<T>(PairBlock<T>::kMost * padded)});
      },
      [&](int64_t begin, int64_t end, Memory& m) {
        clear_missing(a.pairs, begin, end, width, out);
        const bool good = m.block.for_queries(begin, end, [&] {
          m.block.differences([&](int64_t c, Vector<T> x) {
            const Vector<T> z = multiply_add<T>(load(in.scale.data() + c), x, load(in.shift.data() + c));
            return z <= Vector<T>{} ? Vector<T>{} : z;
          });
          const int64_t pairs = m.block.size();
          const auto row = [&](int64_t i) { return m.block.row(i); };
          const auto result = [&](int64_t i) { return out + m.block.number(i) * width; };
          if (padded == width) return weight.multiply(pairs, row, bias.data(), result);
          weight.multiply(pairs, row, bias.data(), [&](int64_t i) { return &m.out[i * padded]; });
          with_width(width, [&](auto count) {
            for (int64_t i = 0; i < pairs; ++i) std::copy_n(&m.out[i * padded], int64_t{count}, result(i));
          });
        });
        if (!good) in_range = false;
      });
  return in_range;
}

// Gradients of the relations, back through the product: what both walks begin with.
template <class T>
struct Projection {
  const T* grad_out;
  int64_t width;
  BlockMatrix<T> weight;

  // rows[i] = grad_out of pair i @ weight.
  void operator()(const PairBlock<T>& block, T* rows) const {
    weight.multiply(
        block.size(), [&](int64_t i) { return grad_out + block.number(i) * width; }, nullptr,
        [&](int64_t i) { return rows + i * weight.columns(); });
  }

  // grad_out of the block's pairs, one after the other: where they lie, or copied.
  const T* grads(const PairBlock<T>& block, T* copy) const {
    if (block.number(block.size() - 1) - block.number(0) == block.size() - 1)
      return grad_out + block.number(0) * width;
    with_width(width, [&](auto count) {
      for (int64_t i = 0; i < block.size(); ++i)
        std::copy_n(grad_out + block.number(i) * count, int64_t{count}, copy + i * count);
    });
    return copy;
  }
};

template <class T>
struct Memory {
  PairBlock<T> block;
  Buffer<T> grads, rows;

  Memory(const PairInputs<T>& in, int64_t width)
      : block(in), grads(PairBlock<T>::kMost * width), rows(PairBlock<T>::kMost * in.stride) {}
};

template <class T>
void backward_by_query(const RelationInputs<T>& in, const Projection<T>& project,
                       const AttentionRelationGradients<T>& g, uint16_t* passed, const Parallel& parallel) {
  const AttentionPairs<T>& pairs = in.a.pairs;
  const int64_t width = in.a.out_channels, stride = in.pairs.stride, positions = pairs.position_channels;
  // Rows of the sums: position_weight, position_bias, scale, shift, weight; bias behind them.
  const int64_t rows = positions + 3 + width, bias_rows = (width + stride - 1) / stride;
  ParameterSums<T> sums(pairs.num_query, pairs.num_query * pairs.num_neighbors, (rows + bias_rows) * stride);
  for_tasks(
      sums.chunks(), parallel, [&] { return std::unique_ptr<Memory<T>>(new Memory<T>(in.pairs, width)); },
      [&](int64_t chunk, Memory<T>& m) {
        const int64_t begin = sums.begin(chunk), end = sums.begin(chunk + 1);
        T* sum = sums.start(chunk);
        T *scale = sum + (positions + 1) * stride, *shift = scale + stride, *weight = shift + stride;
        T* bias = weight + width * stride;
        std::fill_n(g.pairs.query + begin * pairs.channels, (end - begin) * pairs.channels, T(0));
        clear_missing(pairs, begin, end, positions, g.pairs.position);
        PairBlock<T>& block = m.block;
        block.for_queries(begin, end, [&] {
          block.differences([](int64_t, Vector<T> x) { return x; });
          project(block, m.rows.data());
          for_channels<T>(stride, [&](int64_t c, auto vectors) {
            through_norm<T, vectors>(
                block.row(0), block.row(0), m.rows.data(), block.size(), stride, c, in.scale.data(), in.shift.data(),
                scale, shift, [&](int64_t i, int64_t vector, uint16_t bits) {
                  passed[block.number(i) * (stride / kLanes<T>) + vector] = bits;
                });
          });
          const T* grads = project.grads(block, m.grads.data());
          add_weight_gradient(grads, width, m.rows.data(), stride, block.size(), weight);
          add_columns(grads, width, block.size(), bias);
          block.position_gradients(sum, g.pairs.position);
          block.add_to_owners(g.pairs.query);
        });
      });
  const T* total = sums.total();
  const T* scale = total + (positions + 1) * stride;
  write_position_sums(in.pairs, total, g.pairs);
  std::copy_n(scale, pairs.channels, g.scale);
  std::copy_n(scale + stride, pairs.channels, g.shift);
  for (int64_t o = 0; o < width; ++o)
    std::copy_n(scale + (2 + o) * stride, pairs.channels, g.weight + o * pairs.channels);
  std::copy_n(scale + (2 + width) * stride, width, g.bias);
}

// keys'[j] = -scale * sum over the pairs that name j of what the ReLU let through.
template <class T>
void backward_by_key(const RelationInputs<T>& in, const Projection<T>& project, const AttentionRelationGradients<T>& g,
                     const uint16_t* passed, const Parallel& parallel) {
  const AttentionPairs<T>& pairs = in.a.pairs;
  const int64_t stride = in.pairs.stride, vectors = stride / kLanes<T>, channels = pairs.channels;
  const KeyPairs by_key(pairs, parallel);
  for_parts(
      pairs.num_key, by_key.first(pairs.num_key), parallel,
      [&] { return std::unique_ptr<Memory<T>>(new Memory<T>(in.pairs, in.a.out_channels)); },
      [&](int64_t begin, int64_t end, Memory<T>& m) {
        T* grad = g.pairs.key + begin * channels;
        std::fill_n(grad, (end - begin) * channels, T(0));
        const auto fetch = [&](int64_t e, int64_t) {
          fetch_row(g.grad_out + e * in.a.out_channels, in.a.out_channels);
          fetch_row(passed + e * vectors, vectors);
        };
        m.block.for_keys(by_key, begin, end, fetch, [&] {
          project(m.block, m.rows.data());
          m.block.add_to_owners(g.pairs.key, [&](int64_t i, int64_t c) {
            const uint16_t bits = passed[m.block.number(i) * vectors + c / kLanes<T>];
            return keep_lanes<T>(bits, load(&m.rows[i * stride + c]));
          });
        });
        for (int64_t j = begin; j < end; ++j, grad += channels)
          for (int64_t c = 0; c < channels; ++c) grad[c] *= -in.a.scale[c];
      });
}

template <class T>
void backward(const AttentionRelation<T>& a, const AttentionRelationGradients<T>& g, const Parallel& parallel) {
  const RelationInputs<T> in(a, parallel);
  const Projection<T> project{g.grad_out, a.out_channels,
                              {a.weight, a.out_channels, a.pairs.channels, a.pairs.channels, 1}};
  Buffer<uint16_t> passed(a.pairs.num_query * a.pairs.num_neighbors * (in.pairs.stride / kLanes<T>));
  backward_by_query(in, project, g, passed.data(), parallel);
  backward_by_key(in, project, g, passed.data(), parallel);
}

}  // namespace

bool attention_relation(const AttentionRelation<float>& a, float* out, const Parallel& parallel) {
  return forward(a, out, parallel);
}
bool attention_relation(const AttentionRelation<double>& a, double* out, const Parallel& parallel) {
  return forward(a, out, parallel);
}
void attention_relation_backward(const AttentionRelation<float>& a, const AttentionRelationGradients<float>& g,
                                 const Parallel& parallel) {
  backward(a, g, parallel);
}
void attention_relation_backward(const AttentionRelation<double>& a, const AttentionRelationGradients<double>& g,
                                 const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
