// Reductions over consecutive rows: segment s holds the rows offsets[s] .. offsets[s + 1].
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

enum class Reduce : int { sum = 0, mean = 1, max = 2 };

// out[s, c] = reduce of values[offsets[s] .. offsets[s + 1], c]; an empty segment gives 0.
// values (num_rows, channels), offsets (num_segments + 1) ascending within [0, num_rows], out (num_segments, channels).
// arg (num_segments, channels), for max only (else null): the first row that attains it, -1 for an empty segment.
// A NaN wins a maximum, as in torch.
template <class T>
struct SegmentReduce {
  const T* values;
  const int64_t* offsets;
  T* out;
  int64_t* arg;
  int64_t num_segments;
  int64_t channels;
  Reduce reduce;
};

PCSEG_KERNEL(void segment_reduce(const SegmentReduce<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void segment_reduce(const SegmentReduce<double>& a, const Parallel& parallel))

template <class T>
void run_segment_reduce(const SegmentReduce<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(segment_reduce, a, parallel);
}

}  // namespace pcseg
