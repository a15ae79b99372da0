// Rows of neighbours, and the sums over all lists that name a row.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// out[j, c] = values[neighbors[j], c], or fill where neighbors[j] == num_rows.
// values (num_rows, channels), neighbors (num_entries) within [0, num_rows], out (num_entries, channels).
// Returns whether all neighbours lie within; an entry that does not gets fill.
template <class T>
struct GatherNeighbors {
  const T* values;
  const int64_t* neighbors;
  T* out;
  int64_t num_rows;
  int64_t num_entries;
  int64_t channels;
  T fill;
};

// grad_values[neighbors[j], c] = sum of grad[j, c], in the order of j whatever the number of threads; written whole.
// Entries outside [0, num_rows) count for nothing.
template <class T>
struct GatherNeighborsBackward {
  const T* grad;
  const int64_t* neighbors;
  T* grad_values;
  int64_t num_rows;
  int64_t num_entries;
  int64_t channels;
};

PCSEG_KERNEL(bool gather_neighbors(const GatherNeighbors<float>& a, const Parallel& parallel))
PCSEG_KERNEL(bool gather_neighbors(const GatherNeighbors<double>& a, const Parallel& parallel))
PCSEG_KERNEL(void gather_neighbors_backward(const GatherNeighborsBackward<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void gather_neighbors_backward(const GatherNeighborsBackward<double>& a, const Parallel& parallel))

template <class T>
bool run_gather_neighbors(const GatherNeighbors<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(gather_neighbors, a, parallel);
}
template <class T>
void run_gather_neighbors_backward(const GatherNeighborsBackward<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(gather_neighbors_backward, a, parallel);
}

}  // namespace pcseg
