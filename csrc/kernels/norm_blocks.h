// A norm, ReLU and linear layer on blocks of rows, forward and backward: what norm_linear is made of, and what
// norm_attention fuses with the rest of an attention.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "moments.h"
#include "norm_linear.h"
#include "vector_blocks.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kNormRows = 64;  // of a block

// `count` rows padded from `width` to `stride`.
template <class T>
void pad_rows(const T* rows, int64_t width, int64_t count, int64_t stride, T* padded) {
  with_width(width, [&](auto columns) {
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(rows + i * columns, int64_t{columns}, padded + i * stride);
      std::fill(padded + i * stride + columns, padded + (i + 1) * stride, T(0));
    }
  });
}
template <class T>
void cut_rows(const T* padded, int64_t stride, int64_t count, int64_t width, T* rows) {
  with_width(width, [&](auto columns) {
    for (int64_t i = 0; i < count; ++i) std::copy_n(padded + i * stride, int64_t{columns}, rows + i * columns);
  });
}

// f(first, count) for blocks of rows begin .. end - 1.
template <class F>
void for_blocks(int64_t begin, int64_t end, const F& f) {
  for (int64_t row = begin; row < end; row += kNormRows) f(row, std::min(kNormRows, end - row));
}

// The norm as scale * x + shift, padded.
template <class T>
struct FoldedNorm {
  int64_t stride;
  Buffer<T> scale, shift;

  explicit FoldedNorm(const NormLinear<T>& a)
      : stride(round_up(a.in_channels, kLanes<T>)), scale(stride), shift(stride) {
    for (int64_t c = 0; c < stride; ++c) {
      const bool real = c < a.in_channels;
      scale[c] = real ? a.norm_weight[c] * inverse(a, c) : T(0);
      shift[c] = real ? a.norm_bias[c] - a.mean[c] * scale[c] : T(0);
    }
  }
  static T inverse(const NormLinear<T>& a, int64_t c) { return T(1) / std::sqrt(a.var[c] + static_cast<T>(a.eps)); }
};

// Mean and variance of all rows, into a.mean and a.var.
template <class T>
void find_moments(const NormLinear<T>& a, const Parallel& parallel) {
  const int64_t stride = round_up(a.in_channels, kLanes<T>), chunks = gradient_chunks(a.num_rows, stride);
  std::vector<Moments> moments(chunks, Moments(a.in_channels));
  struct Memory {
    BlockMoments<T> block;
    Buffer<T> padded;
  };
  for_tasks(
      chunks, parallel,
      [&] {
        return std::unique_ptr<Memory>(
            new Memory{BlockMoments<T>(a.in_channels, stride), Buffer<T>(kNormRows * stride)});
      },
      [&](int64_t chunk, Memory& m) {
        for_blocks(a.num_rows * chunk / chunks, a.num_rows * (chunk + 1) / chunks, [&](int64_t first, int64_t count) {
          const T* rows = a.rows + first * a.in_channels;
          if (stride != a.in_channels) pad_rows(rows, a.in_channels, count, stride, m.padded.data());
          m.block.join(stride == a.in_channels ? rows : m.padded.data(), count, moments[chunk]);
        });
      });
  for (int64_t chunk = 1; chunk < chunks; ++chunk) moments[0].join(moments[chunk]);
  moments[0].write(a.mean, a.var);
}

// out = the layers' result for blocks of up to `most` dense rows.
template <class T>
class NormForward {
 public:
  struct Memory {
    Buffer<T> rows, out;
  };

  explicit NormForward(const NormLinear<T>& a)
      : a_(a),
        norm_(a),
        weight_(a.weight, a.in_channels, a.out_channels, 1, a.in_channels),
        bias_(padded_copy(a.bias, a.out_channels, weight_.columns())) {}

  Memory memory(int64_t most) const { return {Buffer<T>(most * norm_.stride), Buffer<T>(most * weight_.columns())}; }

  void operator()(const T* rows, int64_t count, T* out, Memory& m) const {
    const int64_t stride = norm_.stride;
    if (stride != a_.in_channels) pad_rows(rows, a_.in_channels, count, stride, m.rows.data());
    const T* source = stride == a_.in_channels ? rows : m.rows.data();
    for_channels<T>(stride, [&](int64_t c, auto vectors) {
      Vector<T> scale[vectors], shift[vectors];
      for (int v = 0; v < vectors; ++v) {
        scale[v] = load(norm_.scale.data() + c + v * kLanes<T>);
        shift[v] = load(norm_.shift.data() + c + v * kLanes<T>);
      }
      for (int64_t i = 0; i < count; ++i)
        for (int v = 0; v < vectors; ++v) {
          const int64_t at = i * stride + c + v * kLanes<T>;
          const Vector<T> z = multiply_add<T>(scale[v], load(source + at), shift[v]);
          store(&m.rows[at], z <= Vector<T>{} ? Vector<T>{} : z);
        }
    });
    const bool whole = weight_.columns() == a_.out_channels;
    T* padded = whole ? out : m.out.data();
    weight_.multiply(
        count, [&](int64_t i) { return &m.rows[i * stride]; }, bias_.data(),
        [&](int64_t i) { return padded + i * weight_.columns(); });
    if (!whole) cut_rows(m.out.data(), weight_.columns(), count, a_.out_channels, out);
  }

 private:
  const NormLinear<T>& a_;
  FoldedNorm<T> norm_;
  BlockMatrix<T> weight_;
  Buffer<T> bias_;
};

// The way back for blocks of up to `most` dense rows: their gradient but for what goes through mean and var, and sums
// of size() numbers that `write` makes the parameters' gradients of.
template <class T>
class NormBackward {
 public:
  struct Memory {
    Buffer<T> x, rows;
  };

  explicit NormBackward(const NormLinear<T>& a)
      : a_(a), norm_(a), weight_(a.weight, a.out_channels, a.in_channels, a.in_channels, 1) {}

  // Rows of the sums: scale, shift, weight; bias behind them.
  int64_t size() const { return (2 + a_.out_channels) * norm_.stride + a_.out_channels; }
  Memory memory(int64_t most) const { return {Buffer<T>(most * norm_.stride), Buffer<T>(most * norm_.stride)}; }

  void operator()(const T* rows, const T* grads, int64_t count, T* grad_rows, T* sum, Memory& m) const {
    const int64_t stride = norm_.stride, channels = a_.in_channels, width = a_.out_channels;
    const bool whole = stride == channels;
    if (!whole) pad_rows(rows, channels, count, stride, m.x.data());
    weight_.multiply(
        count, [&](int64_t i) { return grads + i * width; }, nullptr, [&](int64_t i) { return &m.rows[i * stride]; });
    for_channels<T>(stride, [&](int64_t c, auto vectors) {
      through_norm<T, vectors>(
          whole ? rows : m.x.data(), whole ? grad_rows : m.x.data(), m.rows.data(), count, stride, c,
          norm_.scale.data(), norm_.shift.data(), sum, sum + stride, [](int64_t, int64_t, uint16_t) {});
    });
    if (!whole) cut_rows(m.x.data(), stride, count, channels, grad_rows);
    add_weight_gradient(grads, width, m.rows.data(), stride, count, sum + 2 * stride);
    add_columns(grads, width, count, sum + (2 + width) * stride);
  }

  void write(const T* total, const NormLinearGradients<T>& g) const {
    const int64_t stride = norm_.stride, channels = a_.in_channels, width = a_.out_channels;
    for (int64_t c = 0; c < channels; ++c) {
      g.norm_weight[c] = FoldedNorm<T>::inverse(a_, c) * (total[c] - a_.mean[c] * total[stride + c]);
      g.norm_bias[c] = total[stride + c];
    }
    for (int64_t o = 0; o < width; ++o) std::copy_n(total + (2 + o) * stride, channels, g.weight + o * channels);
    std::copy_n(total + (2 + width) * stride, width, g.bias);
  }

 private:
  const NormLinear<T>& a_;
  FoldedNorm<T> norm_;
  BlockMatrix<T> weight_;
};

// rows' += offset + slope * rows: the gradient that goes through mean and var, from those of the norm's parameters.
template <class T>
void through_moments(const NormLinear<T>& a, const NormLinearGradients<T>& g, const Parallel& parallel) {
  const int64_t channels = a.in_channels;
  // So many numbers at a time that whole rows and whole vectors begin them.
  const int64_t period = channels * kLanes<T>;
  Buffer<T> offset(period), slope(period);
  for (int64_t c = 0; c < period; ++c) {
    const int64_t at = c % channels;
    const T inverse = FoldedNorm<T>::inverse(a, at), share = a.norm_weight[at] * inverse / static_cast<T>(a.num_rows);
    slope[c] = -share * inverse * g.norm_weight[at];
    offset[c] = -share * g.norm_bias[at] - slope[c] * a.mean[at];
  }
  const int64_t total = a.num_rows * channels;
  parallel.ranges((total + period - 1) / period, 1 + 16384 / period, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * period; i < std::min(total, end * period); i += period) {
      const int64_t count = std::min(period, total - i);
      int64_t c = 0;
      for (; c + kLanes<T> <= count; c += kLanes<T>) {
        const Vector<T> line = multiply_add<T>(load(slope.data() + c), load(a.rows + i + c), load(offset.data() + c));
        store(g.rows + i + c, load(g.rows + i + c) + line);
      }
      for (; c < count; ++c) g.rows[i + c] += offset.data()[c] + slope.data()[c] * a.rows[i + c];
    }
  });
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
