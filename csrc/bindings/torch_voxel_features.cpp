#include "../kernels/voxel_features.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

constexpr auto op = "voxel_features";

struct Arguments {
  const Tensor &coords, &voxel_of_point, &order, &point_offsets;
  const std::optional<Tensor>&feats, &labels;
  Tensor &out_coords, &out_feats, &out_labels;
};

template <class C, class F>
VoxelFault run(const Arguments& a) {
  return run_voxel_features<C, F>({.coords = data<C>(a.coords),
                                   .feats = a.feats ? data<F>(*a.feats) : nullptr,
                                   .labels = a.labels ? data<int64_t>(*a.labels) : nullptr,
                                   .voxel_of_point = data<int64_t>(a.voxel_of_point),
                                   .order = data<int64_t>(a.order),
                                   .point_offsets = data<int64_t>(a.point_offsets),
                                   .out_coords = mutable_data<C>(a.out_coords),
                                   .out_feats = mutable_data<F>(a.out_feats),
                                   .out_labels = mutable_data<int64_t>(a.out_labels),
                                   .num_points = a.coords.size(0),
                                   .num_voxels = a.out_coords.size(0),
                                   .dims = a.coords.size(1),
                                   .channels = a.out_feats.size(1)},
                                  torch_threads());
}

void expect_rows(const Tensor& t, int64_t dims, int64_t rows, const char* what) {
  expect(t.dim() == dims && t.size(0) == rows, op, what);
}

std::tuple<Tensor, Tensor, Tensor> voxel_features(Tensor coords, std::optional<Tensor> feats,
                                                  std::optional<Tensor> labels, Tensor voxel_of_point, Tensor order,
                                                  Tensor point_offsets) {
  coords = torch::stable::contiguous(coords);
  voxel_of_point = torch::stable::contiguous(voxel_of_point);
  order = torch::stable::contiguous(order);
  point_offsets = torch::stable::contiguous(point_offsets);
  expect(coords.dim() == 2 && coords.size(1) >= 1 && coords.size(1) <= 8, op, "coords must be (N, 1 to 8)");
  const int64_t points = coords.size(0);
  expect_rows(voxel_of_point, 1, points, "voxel_of_point must be (N,)");
  expect_rows(order, 1, points, "order must be (N,)");
  expect(voxel_of_point.scalar_type() == ScalarType::Long, op, "voxel_of_point must be int64");
  expect(order.scalar_type() == ScalarType::Long, op, "order must be int64");
  expect_offsets(point_offsets, points, op);
  if (feats) {
    feats = torch::stable::contiguous(*feats);
    expect_rows(*feats, 2, points, "feats must be (N, C)");
  }
  if (labels) {
    labels = torch::stable::contiguous(*labels);
    expect_rows(*labels, 1, points, "labels must be (N,)");
    expect(labels->scalar_type() == ScalarType::Long, op, "labels must be int64");
  }

  const int64_t voxels = point_offsets.size(0) - 1;
  const ScalarType coord_type = coords.scalar_type(), feat_type = feats ? feats->scalar_type() : coord_type;
  for (const ScalarType type : {coord_type, feat_type})
    expect(type == ScalarType::Float || type == ScalarType::Double, op, "coords and feats must be float32 or float64");
  Tensor out_coords = empty_like_device(coords, {voxels, coords.size(1)}, coord_type);
  Tensor out_feats = empty_like_device(coords, {voxels, feats ? feats->size(1) : 0}, feat_type);
  Tensor out_labels = empty_like_device(coords, {labels ? voxels : 0}, ScalarType::Long);
  const Arguments a{coords, voxel_of_point, order, point_offsets, feats, labels, out_coords, out_feats, out_labels};
  VoxelFault fault;
  if (coord_type == ScalarType::Float)
    fault = feat_type == ScalarType::Float ? run<float, float>(a) : run<float, double>(a);
  else
    fault = feat_type == ScalarType::Float ? run<double, float>(a) : run<double, double>(a);
  expect(fault != VoxelFault::voxel, op, "voxel_of_point must hold voxels of point_offsets");
  expect(fault != VoxelFault::row, op, "order must hold rows of coords");
  expect(fault != VoxelFault::label, op, "labels must be at least -1 (IGNORE)");
  return {out_coords, out_feats, out_labels};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "voxel_features(Tensor coords, Tensor? feats, Tensor? labels, Tensor voxel_of_point, Tensor order, "
      "Tensor point_offsets) -> (Tensor coords, Tensor feats, Tensor labels)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) { m.impl("voxel_features", TORCH_BOX(&voxel_features)); }

}  // namespace
}  // namespace pcseg::bindings
