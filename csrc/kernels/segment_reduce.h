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
// A NaN wins a maximum, as in torch. Sums of segments up to segment_block rows run in the order of the rows; a longer
// segment is the sum, in order, of the sums of its blocks of that many rows: so one long segment occupies all threads,
// and the result does not depend on their number.
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

constexpr int64_t segment_block = 4096;

// The gradient of the above, written whole: grad_values (num_rows, channels), 0 in rows of no segment.
// arg as the forward pass left it (max only).
template <class T>
struct SegmentReduceBackward {
  const T* grad;  // (num_segments, channels)
  const int64_t* offsets;
  const int64_t* arg;
  T* grad_values;
  int64_t num_rows;
  int64_t num_segments;
  int64_t channels;
  Reduce reduce;
};

PCSEG_KERNEL(void segment_reduce(const SegmentReduce<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void segment_reduce(const SegmentReduce<double>& a, const Parallel& parallel))
PCSEG_KERNEL(void segment_reduce_backward(const SegmentReduceBackward<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void segment_reduce_backward(const SegmentReduceBackward<double>& a, const Parallel& parallel))

template <class T>
void run_segment_reduce(const SegmentReduce<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(segment_reduce, a, parallel);
}
template <class T>
void run_segment_reduce_backward(const SegmentReduceBackward<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(segment_reduce_backward, a, parallel);
}

}  // namespace pcseg
