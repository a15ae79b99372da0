// The k nearest neighbours, or those within a radius, on a GPU: one warp a query through a tree of boxes.
//
// Equal to the CPU's knn and radius_search bit for bit: the same arithmetic in the same order, ties to the lower row,
// and a box is skipped only if nothing in it could enter the list.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcseg {

// query (num_query, dim), support (num_support, dim), offsets (num_clouds + 1), dim 1 to 3; fewer than 2^31 - 32 rows
// each. index (num_query, k): rows of support in the query's cloud, nearest first, num_support where there is none;
// sq_dist (num_query, k), infinity where there is none, or null if unwanted. Neighbours have finite squared distances
// of at most max_sq_dist. Lists beyond 64 neighbours take one more pass for each further 64.
// Nothing here waits for the GPU, and all sizes follow from the arguments: it can be captured in a CUDA graph.
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
};

template <class T>
size_t neighbor_search_workspace_bytes(const NeighborSearch<T>& a);

// The workspace may be reused as soon as later work on the stream needs it.
void neighbor_search(const NeighborSearch<float>& a, void* workspace, void* stream);
void neighbor_search(const NeighborSearch<double>& a, void* workspace, void* stream);

}  // namespace pcseg
