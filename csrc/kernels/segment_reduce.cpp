#include "segment_reduce.h"

#include <vector>

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
void sum_rows(const T* values, int64_t rows, int64_t channels, T* __restrict out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = T(0);
  for (int64_t row = 0; row < rows; ++row, values += channels)
    for (int64_t c = 0; c < channels; ++c) out[c] += values[c];
}

// The maximum so far is in out and arg; a row replaces it where it is greater, or the first NaN.
template <class T>
void max_rows(const T* values, int64_t first, int64_t last, int64_t channels, T* __restrict out,
              int64_t* __restrict arg) {
  for (int64_t row = first; row < last; ++row) {
    const T* value = values + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      // Bitwise, so that the loop has no branch.
      const bool better = (value[c] > out[c]) | ((value[c] != value[c]) & (out[c] == out[c]));
      arg[c] = better ? row : arg[c];
      out[c] = better ? value[c] : out[c];
    }
  }
}

template <class T>
void max_of(const T* values, int64_t first, int64_t last, int64_t channels, T* out, int64_t* arg) {
  for (int64_t c = 0; c < channels; ++c) {
    out[c] = first < last ? values[first * channels + c] : T(0);
    arg[c] = first < last ? first : -1;
  }
  max_rows(values, first + 1, last, channels, out, arg);
}

template <class T>
void reduce_segment(const SegmentReduce<T>& a, int64_t s) {
  const int64_t first = a.offsets[s], last = a.offsets[s + 1];
  T* out = a.out + s * a.channels;
  if (a.reduce == Reduce::max) return max_of(a.values, first, last, a.channels, out, a.arg + s * a.channels);
  sum_rows(a.values + first * a.channels, last - first, a.channels, out);
  if (a.reduce == Reduce::mean && last > first)
    for (int64_t c = 0; c < a.channels; ++c) out[c] /= static_cast<T>(last - first);
}

// All blocks of one long segment, then the blocks' results in order.
template <class T>
void reduce_long(const SegmentReduce<T>& a, int64_t s, const Parallel& parallel) {
  const int64_t first = a.offsets[s], last = a.offsets[s + 1], channels = a.channels;
  const int64_t blocks = (last - first + segment_block - 1) / segment_block;
  std::vector<T> part(blocks * channels);
  std::vector<int64_t> part_arg(a.reduce == Reduce::max ? blocks * channels : 0);
  parallel.ranges(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t from = first + b * segment_block, to = std::min(last, from + segment_block);
      if (a.reduce == Reduce::max)
        max_of(a.values, from, to, channels, part.data() + b * channels, part_arg.data() + b * channels);
      else
        sum_rows(a.values + from * channels, to - from, channels, part.data() + b * channels);
    }
  });
  T* out = a.out + s * channels;
  if (a.reduce != Reduce::max) {
    sum_rows(part.data(), blocks, channels, out);
    if (a.reduce == Reduce::mean)
      for (int64_t c = 0; c < channels; ++c) out[c] /= static_cast<T>(last - first);
    return;
  }
  int64_t* arg = a.arg + s * channels;
  max_of(part.data(), 0, blocks, channels, out, arg);
  for (int64_t c = 0; c < channels; ++c) arg[c] = part_arg[arg[c] * channels + c];
}

// Rows a range of segments should have at least, so that a thread has something to do.
int64_t grain_of(int64_t segments, int64_t rows, int64_t channels) {
  const int64_t cost = (rows + segments) * (channels + 1);  // of all segments
  return std::max<int64_t>(1, static_cast<int64_t>(16384.0 * static_cast<double>(segments) / static_cast<double>(cost)));
}

template <class T>
void run(const SegmentReduce<T>& a, const Parallel& parallel) {
  if (a.num_segments == 0 || a.channels == 0) return;
  const int64_t rows = a.offsets[a.num_segments] - a.offsets[0];
  parallel.ranges(a.num_segments, grain_of(a.num_segments, rows, a.channels), [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      if (a.offsets[s + 1] - a.offsets[s] <= segment_block) reduce_segment(a, s);
  });
  if (rows <= segment_block) return;
  for (int64_t s = 0; s < a.num_segments; ++s)
    if (a.offsets[s + 1] - a.offsets[s] > segment_block) reduce_long(a, s, parallel);
}

template <class T>
void backward_rows(const SegmentReduceBackward<T>& a, int64_t first, int64_t last) {
  const int64_t channels = a.channels;
  // The segment of the first row; rows before all segments belong to none.
  int64_t s = std::upper_bound(a.offsets, a.offsets + a.num_segments + 1, first) - a.offsets - 1;
  for (int64_t row = first; row < last;) {
    while (s < a.num_segments && s >= 0 && a.offsets[s + 1] <= row) ++s;
    T* to = a.grad_values + row * channels;
    if (s < 0 || s == a.num_segments) {
      const int64_t end = s < 0 ? std::min(last, a.offsets[0]) : last;
      std::fill_n(to, (end - row) * channels, T(0));
      row = end;
      s += s < 0;
      continue;
    }
    const int64_t end = std::min(last, a.offsets[s + 1]);
    const T* grad = a.grad + s * channels;
    if (a.reduce == Reduce::max) {
      const int64_t* arg = a.arg + s * channels;
      std::fill_n(to, (end - row) * channels, T(0));
      for (int64_t c = 0; c < channels; ++c)
        if (row <= arg[c] && arg[c] < end) to[(arg[c] - row) * channels + c] = grad[c];
      row = end;
    } else if (a.reduce == Reduce::mean) {
      const T count = static_cast<T>(a.offsets[s + 1] - a.offsets[s]);
      T* const mean = to;
      for (int64_t c = 0; c < channels; ++c) mean[c] = grad[c] / count;
      for (++row, to += channels; row < end; ++row, to += channels) std::copy_n(mean, channels, to);
    } else {
      for (; row < end; ++row, to += channels) std::copy_n(grad, channels, to);
    }
  }
}

template <class T>
void run(const SegmentReduceBackward<T>& a, const Parallel& parallel) {
  if (a.channels == 0) return;
  parallel.ranges(a.num_rows, 1 + 16384 / a.channels,
                  [&](int64_t begin, int64_t end) { backward_rows(a, begin, end); });
}

}  // namespace

void segment_reduce(const SegmentReduce<float>& a, const Parallel& parallel) { run(a, parallel); }
void segment_reduce(const SegmentReduce<double>& a, const Parallel& parallel) { run(a, parallel); }
void segment_reduce_backward(const SegmentReduceBackward<float>& a, const Parallel& parallel) { run(a, parallel); }
void segment_reduce_backward(const SegmentReduceBackward<double>& a, const Parallel& parallel) { run(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
