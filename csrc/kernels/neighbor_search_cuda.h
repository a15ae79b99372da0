// The neighbour search on a GPU: the contract of neighbor_search.h, and the CPU's bits. One warp a query through a tree
// of boxes; a box is skipped only if nothing in it could enter the list. Lists beyond 64 neighbours take one more pass
// for each further 64.
//
// Nothing here waits for the GPU, and all sizes follow from the arguments: it can be captured in a CUDA graph. Offsets
// that break the contract therefore stop the process's CUDA work with a device-side assertion, not with an error.
#pragma once

#include <cstddef>

#include "neighbor_search.h"

namespace pcseg {

// The index that NeighborSearch::support_index takes here. Fewer than 2^31 - 33 rows, as everywhere below.
template <class T>
size_t search_tree_bytes(int64_t num_points, int64_t dim);
template <class T>
size_t search_tree_workspace_bytes(int64_t num_points, int64_t num_clouds, int64_t dim);
template <class T>
void build_search_tree_cuda(const T* coords, const int64_t* offsets, int64_t num_points, int64_t num_clouds, int64_t dim,
                            void* memory, void* workspace, void* stream);

// 0 where the index is given.
template <class T>
size_t neighbor_search_workspace_bytes(const NeighborSearch<T>& a);

// The workspace may be reused as soon as later work on the stream needs it.
void neighbor_search_cuda(const NeighborSearch<float>& a, void* workspace, void* stream);
void neighbor_search_cuda(const NeighborSearch<double>& a, void* workspace, void* stream);

}  // namespace pcseg
