#include <limits>

#include "../kernels/neighbor_search.h"
#include "../kernels/point_index.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

// Dense coordinates and offsets that fit each other.
struct Clouds {
  Tensor query, support, query_offsets, support_offsets;
  std::optional<Tensor> index;

  void check(const char* op, int64_t k) {
    expect(query.dim() == 2 && support.dim() == 2 && query.size(1) == support.size(1), op,
           "query (M, D), support (N, D)");
    const bool one = query.data_ptr() == support.data_ptr() && query.size(0) == support.size(0) &&
                     query.stride(0) == support.stride(0) && query.stride(1) == support.stride(1);
    for (Tensor* t : {&support, &query_offsets, &support_offsets}) *t = torch::stable::contiguous(*t);
    query = one ? support : torch::stable::contiguous(query);
    expect(query.size(1) >= 1 && query.size(1) <= 8, op, "D must be in 1..8");
    expect(query.scalar_type() == support.scalar_type(), op, "query and support must have one dtype");
    expect(query.size(0) < INT32_MAX && support.size(0) < INT32_MAX, op, "at most 2^31 - 2 rows");
    expect_offsets(query_offsets, query.size(0), op);
    expect_offsets(support_offsets, support.size(0), op);
    expect(query_offsets.size(0) == support_offsets.size(0), op, "query and support must have one number of clouds");
    expect(k >= 1, op, "at least one neighbour");
    if (!index) return;
    *index = torch::stable::contiguous(*index);
    const auto bytes = support.scalar_type() == ScalarType::Float ? point_index_bytes<float> : point_index_bytes<double>;
    expect(index->scalar_type() == ScalarType::Byte &&
               static_cast<size_t>(index->numel()) == bytes(support.size(0), support_offsets.size(0) - 1, support.size(1)),
           op, "the index belongs to other points");
  }

  // One cloud of the same tensor has equal offsets however they were made.
  bool same() const {
    if (query.data_ptr() != support.data_ptr() || query.size(0) != support.size(0)) return false;
    const int64_t *a = data<int64_t>(query_offsets), *b = data<int64_t>(support_offsets);
    for (int64_t i = 0; i < query_offsets.size(0); ++i)
      if (a[i] != b[i]) return false;
    return true;
  }
};

template <class T>
void run(const Clouds& c, int64_t k, T max_sq_dist, Tensor& index, Tensor* sq_dist) {
  run_neighbor_search<T>(
      {.query = data<T>(c.query),
       .support = data<T>(c.support),
       .query_offsets = data<int64_t>(c.same() ? c.support_offsets : c.query_offsets),
       .support_offsets = data<int64_t>(c.support_offsets),
       .num_query = c.query.size(0),
       .num_support = c.support.size(0),
       .num_clouds = c.query_offsets.size(0) - 1,
       .dim = c.query.size(1),
       .k = k,
       .max_sq_dist = max_sq_dist,
       .index = mutable_data<int64_t>(index),
       .sq_dist = sq_dist ? mutable_data<T>(*sq_dist) : nullptr,
       .support_index = c.index ? c.index->data_ptr() : nullptr},
      torch_threads());
}

template <class T>
void build(const Clouds& c, Tensor& memory) {
  run_build_point_index<T>({.coords = data<T>(c.support),
                            .offsets = data<int64_t>(c.support_offsets),
                            .num_points = c.support.size(0),
                            .num_clouds = c.support_offsets.size(0) - 1,
                            .dim = c.support.size(1),
                            .with_boxes = true,
                            .memory = mutable_data<unsigned char>(memory)},
                           torch_threads());
}

Tensor point_index(Tensor coords, Tensor offsets) {
  constexpr auto op = "point_index";
  Clouds c{coords, coords, offsets, offsets, {}};
  c.check(op, 1);
  const bool single = coords.scalar_type() == ScalarType::Float;
  expect(single || coords.scalar_type() == ScalarType::Double, op, "coordinates must be float32 or float64");
  const size_t bytes = (single ? point_index_bytes<float> : point_index_bytes<double>)(
      coords.size(0), offsets.size(0) - 1, coords.size(1));
  Tensor memory = empty_like_device(coords, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  single ? build<float>(c, memory) : build<double>(c, memory);
  return memory;
}

std::tuple<Tensor, Tensor> knn(Tensor query, Tensor support, int64_t k, Tensor query_offsets, Tensor support_offsets,
                               std::optional<Tensor> support_index) {
  constexpr auto op = "knn";
  Clouds c{query, support, query_offsets, support_offsets, support_index};
  c.check(op, k);
  Tensor index = empty_like_device(c.query, {c.query.size(0), k}, ScalarType::Long);
  Tensor sq_dist = empty_like_device(c.query, {c.query.size(0), k}, c.query.scalar_type());
  if (c.query.scalar_type() == ScalarType::Float) {
    run<float>(c, k, std::numeric_limits<float>::infinity(), index, &sq_dist);
  } else {
    expect(c.query.scalar_type() == ScalarType::Double, op, "coordinates must be float32 or float64");
    run<double>(c, k, std::numeric_limits<double>::infinity(), index, &sq_dist);
  }
  return {index, sq_dist};
}

Tensor radius_search(Tensor query, Tensor support, double radius, int64_t max_neighbors, Tensor query_offsets,
                     Tensor support_offsets, std::optional<Tensor> support_index) {
  constexpr auto op = "radius_search";
  Clouds c{query, support, query_offsets, support_offsets, support_index};
  c.check(op, max_neighbors);
  expect(radius > 0, op, "radius must be positive");
  Tensor index = empty_like_device(c.query, {c.query.size(0), max_neighbors}, ScalarType::Long);
  if (c.query.scalar_type() == ScalarType::Float) {
    const auto r = static_cast<float>(radius);
    run<float>(c, max_neighbors, r * r, index, nullptr);
  } else {
    expect(c.query.scalar_type() == ScalarType::Double, op, "coordinates must be float32 or float64");
    run<double>(c, max_neighbors, radius * radius, index, nullptr);
  }
  return index;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "knn(Tensor query, Tensor support, int k, Tensor query_offsets, Tensor support_offsets, "
      "Tensor? support_index=None) -> (Tensor index, Tensor sq_dist)");
  m.def(
      "radius_search(Tensor query, Tensor support, float radius, int max_neighbors, Tensor query_offsets, "
      "Tensor support_offsets, Tensor? support_index=None) -> Tensor");
  m.def("point_index(Tensor coords, Tensor offsets) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("knn", TORCH_BOX(&knn));
  m.impl("radius_search", TORCH_BOX(&radius_search));
  m.impl("point_index", TORCH_BOX(&point_index));
}

}  // namespace
}  // namespace pcseg::bindings
