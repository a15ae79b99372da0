// The arguments of vector attention, checked: what the CPU's and the CUDA binding share.
#pragma once

#include "../kernels/vector_attention.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

constexpr auto kIndexRange = "neighbors must lie in [0, N], where N (the number of keys) means no neighbour";

inline void expect_shape(const Tensor& t, const Tensor& like, std::vector<int64_t> sizes, const char* op,
                         const char* what) {
  bool fits = t.scalar_type() == like.scalar_type() && t.dim() == static_cast<int64_t>(sizes.size());
  for (size_t i = 0; fits && i < sizes.size(); ++i) fits = t.size(static_cast<int64_t>(i)) == sizes[i];
  expect(fits, op, what);
}

// Dense tensors of one dtype, whose sizes fit each other. Without a query (aggregate) that tensor is the key.
struct PairTensors {
  Tensor query, key, neighbors, position, position_weight, position_bias;

  void check(const char* op, bool has_query) {
    for (Tensor* t : {&query, &key, &neighbors, &position, &position_weight, &position_bias})
      *t = torch::stable::contiguous(*t);
    const ScalarType type = key.scalar_type();
    expect(type == ScalarType::Float || type == ScalarType::Double, op, "float32 or float64 expected");
    expect(neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be int64");
    expect(key.dim() == 2 && neighbors.dim() == 2 && position_weight.dim() == 2, op,
           "key or value (N, C), neighbors (M, k), position_weight (C, P)");
    const int64_t m = neighbors.size(0), k = neighbors.size(1), c = key.size(1), p = position_weight.size(1);
    expect(c >= 1 && p >= 1, op, "at least one channel and one position channel");
    if (has_query) expect_shape(query, key, {m, c}, op, "query must be (M, C) of the dtype of key");
    expect_shape(position, key, {m, k, p}, op, "position must be (M, k, P) of one dtype with the rest");
    expect_shape(position_weight, key, {c, p}, op, "position_weight must be (C, P) of one dtype with the rest");
    expect_shape(position_bias, key, {c}, op, "position_bias must be (C,) of one dtype with the rest");
    expect(key.size(0) < INT32_MAX && (m == 0 || k < INT32_MAX / m), op, "at most 2^31 - 2 keys and pairs");
  }

  bool is_float() const { return key.scalar_type() == ScalarType::Float; }

  template <class T>
  AttentionPairs<T> kernel() const {
    return {.query = data<T>(query),
            .key = data<T>(key),
            .neighbors = data<int64_t>(neighbors),
            .position = data<T>(position),
            .position_weight = data<T>(position_weight),
            .position_bias = data<T>(position_bias),
            .num_query = neighbors.size(0),
            .num_key = key.size(0),
            .num_neighbors = neighbors.size(1),
            .channels = key.size(1),
            .position_channels = position_weight.size(1)};
  }
};

// The gradients of those tensors.
struct PairGradientTensors {
  Tensor query, key, position, position_weight, position_bias;

  PairGradientTensors(const PairTensors& in, bool has_query)
      : query(has_query ? like(in.query) : empty_like_device(in.key, {0}, in.key.scalar_type())),
        key(like(in.key)),
        position(like(in.position)),
        position_weight(like(in.position_weight)),
        position_bias(like(in.position_bias)) {}

  static Tensor like(const Tensor& t) {
    std::vector<int64_t> sizes;
    for (int64_t i = 0; i < t.dim(); ++i) sizes.push_back(t.size(i));
    return empty_like_device(t, sizes, t.scalar_type());
  }

  template <class T>
  AttentionPairGradients<T> kernel() {
    return {.query = mutable_data<T>(query),
            .key = mutable_data<T>(key),
            .position = mutable_data<T>(position),
            .position_weight = mutable_data<T>(position_weight),
            .position_bias = mutable_data<T>(position_bias)};
  }
};

struct RelationTensors {
  PairTensors pairs;
  Tensor scale, shift, weight, bias;

  void check(const char* op) {
    pairs.check(op, true);
    for (Tensor* t : {&scale, &shift, &weight, &bias}) *t = torch::stable::contiguous(*t);
    const int64_t c = pairs.key.size(1);
    expect_shape(scale, pairs.key, {c}, op, "scale must be (C,) of one dtype with the rest");
    expect_shape(shift, pairs.key, {c}, op, "shift must be (C,) of one dtype with the rest");
    expect(weight.dim() == 2 && weight.size(0) >= 1, op, "weight must be (G, C) with at least one row");
    expect_shape(weight, pairs.key, {weight.size(0), c}, op, "weight must be (G, C) of one dtype with the rest");
    expect_shape(bias, pairs.key, {weight.size(0)}, op, "bias must be (G,) of one dtype with the rest");
  }

  template <class T>
  AttentionRelation<T> kernel() const {
    return {.pairs = pairs.kernel<T>(),
            .scale = data<T>(scale),
            .shift = data<T>(shift),
            .weight = data<T>(weight),
            .bias = data<T>(bias),
            .out_channels = weight.size(0)};
  }
};

struct AggregateTensors {
  Tensor logits;
  PairTensors pairs;

  void check(const char* op) {
    pairs.check(op, false);
    logits = torch::stable::contiguous(logits);
    expect(logits.dim() == 3 && logits.size(2) >= 1 && pairs.key.size(1) % logits.size(2) == 0, op,
           "logits must be (M, k, G) with a G that divides C");
    expect_shape(logits, pairs.key, {pairs.neighbors.size(0), pairs.neighbors.size(1), logits.size(2)}, op,
                 "logits must be (M, k, G) of one dtype with the rest");
  }

  template <class T>
  AttentionAggregate<T> kernel() const {
    return {.pairs = pairs.kernel<T>(), .logits = data<T>(logits), .weight_channels = logits.size(2)};
  }
};

using PairGradientsTuple = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using RelationGradientsTuple = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

}  // namespace
}  // namespace pcseg::bindings
