// Splat, blur and slice on a permutohedral lattice: the Gaussian-weighted sum over all points of a cloud.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// values and out (num_points, channels); the others as permutohedral_lattice.h fills them, dims + 1 lattice directions.
// out = slice(blur_D(.. blur_0(splat(values)))), and with `transpose` the directions in reverse order: that is the
// transpose of the operator, exactly. Sums go in the order of the points, so threads change no bit.
// Memory: two rows of `channels`, at most 128 at a time, for each lattice point, and at most as much as num_points
// (dims + 1) / 32 such rows.
// Returns false where vertices or neighbors lie outside their ranges (the output is then undefined).
template <class T>
struct GaussianFilter {
  const T* values;
  const int32_t* vertices;
  const T* weights;
  const int32_t* neighbors;
  T* out;
  int64_t num_points;
  int64_t num_vertices;
  int64_t channels;
  int dims;
  bool transpose;
};

// Sums of the splat are formed over so many points at a time: the rounding of long sums stays small.
inline int64_t splat_points(int64_t num_vertices, int dims) {
  const int64_t points = 32 * num_vertices / (dims + 1);
  return points < 4096 ? 4096 : points;
}

PCSEG_KERNEL(bool gaussian_filter(const GaussianFilter<float>& a, const Parallel& parallel))
PCSEG_KERNEL(bool gaussian_filter(const GaussianFilter<double>& a, const Parallel& parallel))

template <class T>
bool run_gaussian_filter(const GaussianFilter<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(gaussian_filter, a, parallel);
}

}  // namespace pcseg
