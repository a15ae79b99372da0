// The arguments of kpconv and its gradient, checked: what the CPU's and the CUDA binding share.
#pragma once

#include "../kernels/kpconv.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

using MaybeTensor = std::optional<Tensor>;

// Dense tensors of one dtype, whose sizes fit each other.
struct Inputs {
  Tensor query, support, neighbors, feats, weights, kernel_points;
  MaybeTensor kernel_offsets, modulations;
  double sigma;

  void check(const char* op) {
    for (Tensor* t : {&query, &support, &neighbors, &feats, &weights, &kernel_points})
      *t = torch::stable::contiguous(*t);
    for (MaybeTensor* t : {&kernel_offsets, &modulations})
      if (*t) *t = torch::stable::contiguous(**t);

    const ScalarType type = feats.scalar_type();
    expect(type == ScalarType::Float || type == ScalarType::Double, op, "feats must be float32 or float64");
    for (const Tensor* t : {&query, &support, &weights, &kernel_points})
      expect(t->scalar_type() == type, op, "query, support, weights and kernel_points must have the dtype of feats");
    expect(neighbors.scalar_type() == ScalarType::Long, op, "neighbors must be int64");
    expect(query.dim() == 2 && support.dim() == 2 && neighbors.dim() == 2 && feats.dim() == 2 && weights.dim() == 3 &&
               kernel_points.dim() == 2,
           op, "query (M, D), support (N, D), neighbors (M, H), feats (N, C), weights (K, C, O), kernel_points (K, D)");
    const int64_t m = query.size(0), n = support.size(0), d = query.size(1), k = kernel_points.size(0);
    expect(d >= 1 && d <= 3 && support.size(1) == d && kernel_points.size(1) == d, op, "coordinates must be 1D to 3D");
    expect(neighbors.size(0) == m && feats.size(0) == n, op, "neighbors and feats must have a row a point");
    expect(k >= 1 && weights.size(0) == k && weights.size(1) == feats.size(1), op, "weights must be (K, C, O)");
    expect(weights.size(1) >= 1 && weights.size(2) >= 1, op, "at least one channel in and out");
    expect(m < INT32_MAX && n < INT32_MAX, op, "at most 2^31 - 2 points");
    expect(sigma > 0, op, "sigma must be positive");
    if (kernel_offsets)
      expect(kernel_offsets->scalar_type() == type && kernel_offsets->dim() == 3 && kernel_offsets->size(0) == m &&
                 kernel_offsets->size(1) == k && kernel_offsets->size(2) == d,
             op, "kernel_offsets must be (M, K, D) of the dtype of feats");
    if (modulations)
      expect(modulations->scalar_type() == type && modulations->dim() == 2 && modulations->size(0) == m &&
                 modulations->size(1) == k,
             op, "modulations must be (M, K) of the dtype of feats");
  }

  template <class T>
  KpConv<T> kernel() const {
    return {.query = data<T>(query),
            .support = data<T>(support),
            .neighbors = data<int64_t>(neighbors),
            .feats = data<T>(feats),
            .weights = data<T>(weights),
            .kernel_points = data<T>(kernel_points),
            .kernel_offsets = kernel_offsets ? data<T>(*kernel_offsets) : nullptr,
            .modulations = modulations ? data<T>(*modulations) : nullptr,
            .num_query = query.size(0),
            .num_support = support.size(0),
            .num_neighbors = neighbors.size(1),
            .dim = query.size(1),
            .kernel_size = kernel_points.size(0),
            .in_channels = feats.size(1),
            .out_channels = weights.size(2),
            .sigma = static_cast<T>(sigma)};
  }
};

}  // namespace
}  // namespace pcseg::bindings
