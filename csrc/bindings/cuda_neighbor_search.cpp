#include <limits>

#include "../kernels/neighbor_search_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

struct Inputs {
  Tensor query, support, query_offsets, support_offsets;
  int64_t k;
  std::optional<Tensor> index;

  void check(const char* op) {
    for (Tensor* t : {&query, &support, &query_offsets, &support_offsets}) *t = torch::stable::contiguous(*t);
    const ScalarType type = query.scalar_type();
    expect(type == ScalarType::Float || type == ScalarType::Double, op, "query must be float32 or float64");
    expect(support.scalar_type() == type, op, "support must have the dtype of query");
    expect(query.dim() == 2 && support.dim() == 2 && query.size(1) == support.size(1), op,
           "query (M, D), support (N, D)");
    expect(query.size(1) >= 1 && query.size(1) <= 8, op, "D must be in 1..8");
    expect(query_offsets.dim() == 1 && support_offsets.dim() == 1 && query_offsets.size(0) >= 1 &&
               query_offsets.size(0) == support_offsets.size(0),
           op, "offsets must be (B + 1,), one B for query and support");
    expect(query_offsets.scalar_type() == ScalarType::Long && support_offsets.scalar_type() == ScalarType::Long, op,
           "offsets must be int64");
    constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max() - 32;
    expect(query.size(0) < kMaxRows && support.size(0) < kMaxRows, op, "at most 2^31 - 34 rows on a GPU");
    expect(k >= 1, op, "at least one neighbour");
    if (!index) return;
    *index = torch::stable::contiguous(*index);
    const auto bytes = type == ScalarType::Float ? search_tree_bytes<float> : search_tree_bytes<double>;
    expect(index->scalar_type() == ScalarType::Byte &&
               static_cast<size_t>(index->numel()) == bytes(support.size(0), support.size(1)),
           op, "the index belongs to other points");
  }

  const void* index_memory() const { return index ? index->data_ptr() : nullptr; }

  template <class T>
  void build(Tensor& memory) const {
    const OnDevice device(support);
    const int64_t points = support.size(0), clouds = support_offsets.size(0) - 1, dim = support.size(1);
    Tensor scratch = workspace(support, search_tree_workspace_bytes<T>(points, clouds, dim));
    build_search_tree_cuda(data<T>(support), data<int64_t>(support_offsets), points, clouds, dim, memory.data_ptr(),
                           scratch.data_ptr(), device.stream());
  }

  template <class T>
  void run(T max_sq_dist, Tensor& index, Tensor* sq_dist) const {
    const OnDevice device(query);
    const NeighborSearch<T> a{.query = data<T>(query),
                              .support = data<T>(support),
                              .query_offsets = data<int64_t>(query_offsets),
                              .support_offsets = data<int64_t>(support_offsets),
                              .num_query = query.size(0),
                              .num_support = support.size(0),
                              .num_clouds = query_offsets.size(0) - 1,
                              .dim = query.size(1),
                              .k = k,
                              .max_sq_dist = max_sq_dist,
                              .index = mutable_data<int64_t>(index),
                              .sq_dist = sq_dist ? mutable_data<T>(*sq_dist) : nullptr,
                              .support_index = index_memory()};
    Tensor memory = workspace(query, neighbor_search_workspace_bytes(a));
    neighbor_search_cuda(a, memory.data_ptr(), device.stream());
  }
};

Tensor point_index(Tensor coords, Tensor offsets) {
  Inputs in{coords, coords, offsets, offsets, 1, {}};
  in.check("point_index");
  const bool single = coords.scalar_type() == ScalarType::Float;
  const size_t bytes = (single ? search_tree_bytes<float> : search_tree_bytes<double>)(coords.size(0), coords.size(1));
  Tensor memory = empty_like_device(coords, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  single ? in.build<float>(memory) : in.build<double>(memory);
  return memory;
}

std::tuple<Tensor, Tensor> knn(Tensor query, Tensor support, int64_t k, Tensor query_offsets, Tensor support_offsets,
                               std::optional<Tensor> support_index) {
  Inputs in{query, support, query_offsets, support_offsets, k, support_index};
  in.check("knn");
  Tensor index = empty_like_device(query, {query.size(0), k}, ScalarType::Long);
  Tensor sq_dist = empty_like_device(query, {query.size(0), k}, query.scalar_type());
  if (query.scalar_type() == ScalarType::Float)
    in.run(std::numeric_limits<float>::infinity(), index, &sq_dist);
  else
    in.run(std::numeric_limits<double>::infinity(), index, &sq_dist);
  return {index, sq_dist};
}

Tensor radius_search(Tensor query, Tensor support, double radius, int64_t max_neighbors, Tensor query_offsets,
                     Tensor support_offsets, std::optional<Tensor> support_index) {
  Inputs in{query, support, query_offsets, support_offsets, max_neighbors, support_index};
  in.check("radius_search");
  Tensor index = empty_like_device(query, {query.size(0), max_neighbors}, ScalarType::Long);
  expect(radius > 0, "radius_search", "radius must be positive");
  if (query.scalar_type() == ScalarType::Float) {
    const float r = static_cast<float>(radius);
    in.run(r * r, index, nullptr);
  } else {
    in.run(radius * radius, index, nullptr);
  }
  return index;
}

PCSEG_CUDA_IMPL(m) {
  m.impl("knn", TORCH_BOX(&knn));
  m.impl("radius_search", TORCH_BOX(&radius_search));
  m.impl("point_index", TORCH_BOX(&point_index));
}

}  // namespace
}  // namespace pcseg::bindings
