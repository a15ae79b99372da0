// Largest value over neighbour lists: the pooling of a strided block.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// out[m, c] = max over h of values[neighbors[m, h], c]; a list without neighbours gives 0.
// values (num_rows, channels), neighbors (num_lists, width) within [0, num_rows] where num_rows means none,
// out and arg (num_lists, channels). arg: the row that attains the maximum, the first of the list where several do;
// num_rows for an empty list. A NaN wins, as in torch. num_rows < 2^31.
template <class T>
struct NeighborMax {
  const T* values;
  const int64_t* neighbors;
  T* out;
  int32_t* arg;
  int64_t num_rows;
  int64_t channels;
  int64_t num_lists;
  int64_t width;
};

// grad_values[arg[m, c], c] += grad[m, c]. grad_values (num_rows, channels) is written whole. Every element is summed
// in the order of m, whatever the number of threads.
template <class T>
struct NeighborMaxBackward {
  const T* grad;
  const int32_t* arg;
  T* grad_values;
  int64_t num_rows;
  int64_t channels;
  int64_t num_lists;
};

PCSEG_KERNEL(void neighbor_max(const NeighborMax<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void neighbor_max(const NeighborMax<double>& a, const Parallel& parallel))
PCSEG_KERNEL(void neighbor_max_backward(const NeighborMaxBackward<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void neighbor_max_backward(const NeighborMaxBackward<double>& a, const Parallel& parallel))

template <class T>
void run_neighbor_max(const NeighborMax<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(neighbor_max, a, parallel);
}
template <class T>
void run_neighbor_max_backward(const NeighborMaxBackward<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(neighbor_max_backward, a, parallel);
}

}  // namespace pcseg
