// The k nearest neighbours, or the nearest of those within a radius: exact, and the same bits for every instruction set,
// number of threads and device.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// query (num_query, dim), support (num_support, dim), row-major, dim 1 to 8, fewer than 2^31 - 1 rows each; offsets
// (num_clouds + 1) from 0 to the number of rows, ascending: a query searches the rows of its own cloud.
// index (num_query, k): rows of support, nearest first, ties to the lower row, num_support where there is none;
// sq_dist (num_query, k), infinity where there is none, or null if unwanted.
// Neighbours have squared distances ((dx dx + dy dy) + dz dz), each operation rounded to T, that are finite and at most
// max_sq_dist. So a point with a NaN or an infinite coordinate is nobody's neighbour and has none.
// support_index: the index of support and its offsets, built before on the same device (point_index.h, point_tree.h), or
// null.
template <class T>
struct NeighborSearch {
  const T* query;
  const T* support;
  const int64_t* query_offsets;
  const int64_t* support_offsets;
  int64_t num_query;
  int64_t num_support;
  int64_t num_clouds;
  int64_t dim;
  int64_t k;
  T max_sq_dist;  // infinity: any
  int64_t* index;
  T* sq_dist;
  const void* support_index = nullptr;
};

PCSEG_KERNEL(void neighbor_search(const NeighborSearch<float>& a, const Parallel& parallel))
PCSEG_KERNEL(void neighbor_search(const NeighborSearch<double>& a, const Parallel& parallel))

// Equal pointers and sizes of query and support (coordinates and offsets) save the queries' own ordering.
template <class T>
void run_neighbor_search(const NeighborSearch<T>& a, const Parallel& parallel) {
  PCSEG_DISPATCH(neighbor_search, a, parallel);
}

}  // namespace pcseg
