// Farthest point sampling: exact, and the same rows for every instruction set, number of threads and device.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// coords (num_points, dim) row-major, finite, dim 1 to 8, fewer than 2^31 - 1 rows; offsets and sample_offsets
// (num_clouds + 1) from 0, ascending, where no cloud has more samples than rows; start (num_clouds) the row within its
// cloud that comes first, inside the cloud wherever a sample is wanted.
// samples (num_samples, the last of sample_offsets): rows of coords, cloud after cloud, each row at most once: first the start, then
// always the row, of those not yet chosen, with the largest squared distance to the nearest that is, ties to the lower
// row. Squared distances are ((dx dx + dy dy) + dz dz), each operation rounded to T.
template <class T>
struct FarthestPointSample {
  const T* coords;
  const int64_t* offsets;
  const int64_t* sample_offsets;
  const int64_t* start;
  int64_t num_points;
  int64_t num_clouds;
  int64_t num_samples;
  int64_t dim;
  int64_t* samples;
};

// The first row with a coordinate that is not finite, where nothing is sampled; -1 where all is well.
PCSEG_KERNEL(int64_t farthest_point_sample(const FarthestPointSample<float>& a, const Parallel& parallel))
PCSEG_KERNEL(int64_t farthest_point_sample(const FarthestPointSample<double>& a, const Parallel& parallel))

template <class T>
int64_t run_farthest_point_sample(const FarthestPointSample<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(farthest_point_sample, a, parallel);
}

}  // namespace pcseg
