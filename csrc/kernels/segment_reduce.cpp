#include "segment_reduce.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
void reduce_rows(const SegmentReduce<T>& a, int64_t begin, int64_t end) {
  const int64_t channels = a.channels;
  for (int64_t s = begin; s < end; ++s) {
    T* out = a.out + s * channels;
    const int64_t first = a.offsets[s], last = a.offsets[s + 1];
    if (a.reduce == Reduce::max) {
      int64_t* arg = a.arg + s * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] = first < last ? a.values[first * channels + c] : T(0);
      for (int64_t c = 0; c < channels; ++c) arg[c] = first < last ? first : -1;
      for (int64_t row = first + 1; row < last; ++row) {
        const T* value = a.values + row * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const bool better = value[c] > out[c] || (value[c] != value[c] && out[c] == out[c]);
          arg[c] = better ? row : arg[c];
          out[c] = better ? value[c] : out[c];
        }
      }
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) out[c] = T(0);
    for (int64_t row = first; row < last; ++row) {
      const T* value = a.values + row * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] += value[c];
    }
    if (a.reduce == Reduce::mean && last > first)
      for (int64_t c = 0; c < channels; ++c) out[c] /= static_cast<T>(last - first);
  }
}

template <class T>
void run(const SegmentReduce<T>& a, const Parallel& parallel) {
  const int64_t grain = 1 + 4096 / (a.channels + 1);
  parallel.ranges(a.num_segments, grain, [&](int64_t begin, int64_t end) { reduce_rows(a, begin, end); });
}

}  // namespace

void segment_reduce(const SegmentReduce<float>& a, const Parallel& parallel) { run(a, parallel); }
void segment_reduce(const SegmentReduce<double>& a, const Parallel& parallel) { run(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
