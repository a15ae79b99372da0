#include "neighbor_max.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
void pool_lists(const NeighborMax<T>& a, int64_t begin, int64_t end) {
  const int64_t channels = a.channels;
  for (int64_t m = begin; m < end; ++m) {
    const int64_t* list = a.neighbors + m * a.width;
    T* out = a.out + m * channels;
    int32_t* arg = a.arg + m * channels;
    int64_t h = 0;
    while (h < a.width && list[h] == a.num_rows) ++h;
    const bool empty = h == a.width;
    const T* first = empty ? nullptr : a.values + list[h] * channels;
    const int32_t start = static_cast<int32_t>(empty ? a.num_rows : list[h]);
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = empty ? T(0) : first[c];
      arg[c] = start;
    }
    for (++h; h < a.width; ++h) {
      if (list[h] == a.num_rows) continue;
      const T* __restrict value = a.values + list[h] * channels;
      const auto row = static_cast<int32_t>(list[h]);
      T* __restrict best = out;
      int32_t* __restrict where = arg;
      for (int64_t c = 0; c < channels; ++c) {
        // Bitwise, so that the loop has no branch: greater, or the first NaN.
        const bool better = (value[c] > best[c]) | ((value[c] != value[c]) & (best[c] == best[c]));
        where[c] = better ? row : where[c];
        best[c] = better ? value[c] : best[c];
      }
    }
  }
}

template <class T>
void run(const NeighborMax<T>& a, const Parallel& parallel) {
  const int64_t grain = 1 + 16384 / (a.channels * a.width + 1);
  parallel.ranges(a.num_lists, grain, [&](int64_t begin, int64_t end) { pool_lists(a, begin, end); });
}

// Threads share the channels, not the lists: two lists may have their maximum in one row.
template <class T>
void run_backward(const NeighborMaxBackward<T>& a, const Parallel& parallel) {
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t lines = (a.channels + line - 1) / line;
  parallel.ranges(lines, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * line, last = end * line < a.channels ? end * line : a.channels;
    for (int64_t row = 0; row < a.num_rows; ++row)
      for (int64_t c = first; c < last; ++c) a.grad_values[row * a.channels + c] = T(0);
    for (int64_t m = 0; m < a.num_lists; ++m)
      for (int64_t c = first; c < last; ++c) {
        const int64_t row = a.arg[m * a.channels + c];
        if (row < a.num_rows) a.grad_values[row * a.channels + c] += a.grad[m * a.channels + c];
      }
  });
}

}  // namespace

void neighbor_max(const NeighborMax<float>& a, const Parallel& parallel) { run(a, parallel); }
void neighbor_max(const NeighborMax<double>& a, const Parallel& parallel) { run(a, parallel); }
void neighbor_max_backward(const NeighborMaxBackward<float>& a, const Parallel& parallel) { run_backward(a, parallel); }
void neighbor_max_backward(const NeighborMaxBackward<double>& a, const Parallel& parallel) {
  run_backward(a, parallel);
}

}  // namespace pcseg::PCSEG_ISA
