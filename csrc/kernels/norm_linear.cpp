#include "norm_linear.h"

#include <cmath>
#include <memory>

#include "moments.h"
#include "vector_blocks.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kRows = 64;  // of a block

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
  for (int64_t row = begin; row < end; row += kRows) f(row, std::min(kRows, end - row));
}

// The norm as scale * x + shift, padded.
template <class T>
struct Folded {
  int64_t stride;
  Buffer<T> scale, shift;

  explicit Folded(const NormLinear<T>& a)
      : stride(round_up(a.in_channels, kLanes<T>)), scale(stride), shift(stride) {
    for (int64_t c = 0; c < stride; ++c) {
      const bool real = c < a.in_channels;
      scale[c] = real ? a.norm_weight[c] * inverse(a, c) : T(0);
      shift[c] = real ? a.norm_bias[c] - a.mean[c] * scale[c] : T(0);
    }
  }
  static T inverse(const NormLinear<T>& a, int64_t c) { return T(1) / std::sqrt(a.var[c] + static_cast<T>(a.eps)); }
};

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
        return std::unique_ptr<Memory>(new Memory{BlockMoments<T>(a.in_channels, stride), Buffer<T>(kRows * stride)});
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

template <class T>
void forward(const NormLinear<T>& a, T* out, const Parallel& parallel) {
  if (a.of_batch) find_moments(a, parallel);
  const Folded<T> norm(a);
  const BlockMatrix<T> weight(a.weight, a.in_channels, a.out_channels, 1, a.in_channels);
  const Buffer<T> bias = padded_copy(a.bias, a.out_channels, weight.columns());
  struct Memory {
    Buffer<T> rows, out;
  };
  for_parts(
      a.num_rows, a.num_rows, parallel,
      [&] {
        return std::unique_ptr<Memory>(
            new Memory{Buffer<T>(kRows * norm.stride), Buffer<T>(kRows * weight.columns())});
      },
      [&](int64_t begin, int64_t end, Memory& m) {
        for_blocks(begin, end, [&](int64_t first, int64_t count) {
          pad_rows(a.rows + first * a.in_channels, a.in_channels, count, norm.stride, m.rows.data());
          for (int64_t c = 0; c < norm.stride; c += kLanes<T>) {
            const Vector<T> scale = load(norm.scale.data() + c), shift = load(norm.shift.data() + c);
            for (int64_t i = 0; i < count; ++i) {
              T* x = &m.rows[i * norm.stride + c];
              const Vector<T> z = multiply_add<T>(scale, load(x), shift);
              store(x, z <= Vector<T>{} ? Vector<T>{} : z);
            }
          }
          T* to = out + first * a.out_channels;
          const bool whole = weight.columns() == a.out_channels;
          T* padded = whole ? to : m.out.data();
          weight.multiply(
              count, [&](int64_t i) { return &m.rows[i * norm.stride]; }, bias.data(),
              [&](int64_t i) { return padded + i * weight.columns(); });
          if (!whole) cut_rows(m.out.data(), weight.columns(), count, a.out_channels, to);
        });
      });
}

// rows' += offset + slope * rows: the gradient that goes through mean and var.
template <class T>
void through_moments(const NormLinear<T>& a, const NormLinearGradients<T>& g, const Parallel& parallel) {
  const int64_t channels = a.in_channels;
  // So many numbers at a time that whole rows and whole vectors begin them.
  const int64_t period = channels * kLanes<T>;
  Buffer<T> offset(period), slope(period);
  for (int64_t c = 0; c < period; ++c) {
    const int64_t at = c % channels;
    const T inverse = Folded<T>::inverse(a, at), share = a.norm_weight[at] * inverse / static_cast<T>(a.num_rows);
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

template <class T>
void backward(const NormLinear<T>& a, const NormLinearGradients<T>& g, const Parallel& parallel) {
  const Folded<T> norm(a);
  const int64_t stride = norm.stride, channels = a.in_channels, width = a.out_channels;
  const BlockMatrix<T> weight(a.weight, width, channels, channels, 1);
  // Rows of the sums: scale, shift, weight; bias behind them.
  ParameterSums<T> sums(a.num_rows, a.num_rows, (2 + width) * stride + width);
  struct Memory {
    Buffer<T> x, rows;
  };
  for_tasks(
      sums.chunks(), parallel,
      [&] { return std::unique_ptr<Memory>(new Memory{Buffer<T>(kRows * stride), Buffer<T>(kRows * stride)}); },
      [&](int64_t chunk, Memory& m) {
        T* sum = sums.start(chunk);
        for_blocks(sums.begin(chunk), sums.begin(chunk + 1), [&](int64_t first, int64_t count) {
          const T* grads = g.grad_out + first * width;
          pad_rows(a.rows + first * channels, channels, count, stride, m.x.data());
          weight.multiply(
              count, [&](int64_t i) { return grads + i * width; }, nullptr,
              [&](int64_t i) { return &m.rows[i * stride]; });
          for_channels<T>(stride, [&](int64_t c, auto vectors) {
            through_norm<T, vectors>(m.x.data(), m.rows.data(), count, stride, c, norm.scale.data(), norm.shift.data(),
                                     sum, sum + stride, [](int64_t, int64_t, uint16_t) {});
          });
          cut_rows(m.x.data(), stride, count, channels, g.rows + first * channels);
          add_weight_gradient(grads, width, m.rows.data(), stride, count, sum + 2 * stride);
          add_columns(grads, width, count, sum + (2 + width) * stride);
        });
      });
  const T* total = sums.total();
  for (int64_t c = 0; c < channels; ++c) {
    g.norm_weight[c] = Folded<T>::inverse(a, c) * (total[c] - a.mean[c] * total[stride + c]);
    g.norm_bias[c] = total[stride + c];
  }
  for (int64_t o = 0; o < width; ++o) std::copy_n(total + (2 + o) * stride, channels, g.weight + o * channels);
  std::copy_n(total + (2 + width) * stride, width, g.bias);
  if (a.of_batch) through_moments(a, g, parallel);
}

}  // namespace

void norm_linear(const NormLinear<float>& a, float* out, const Parallel& parallel) { forward(a, out, parallel); }
void norm_linear(const NormLinear<double>& a, double* out, const Parallel& parallel) { forward(a, out, parallel); }
void norm_linear_backward(const NormLinear<float>& a, const NormLinearGradients<float>& g, const Parallel& parallel) {
  backward(a, g, parallel);
}
void norm_linear_backward(const NormLinear<double>& a, const NormLinearGradients<double>& g,
                          const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
