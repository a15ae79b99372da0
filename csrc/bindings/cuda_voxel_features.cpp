#include "../kernels/voxel_features_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

constexpr auto op = "voxel_features";

struct Arguments {
  const Tensor &coords, &order, &point_offsets;
  const std::optional<Tensor>&feats, &labels;
  Tensor &out_coords, &out_feats, &out_labels;
};

template <class C, class F>
void run(const Arguments& a) {
  const OnDevice device(a.coords);
  voxel_features_cuda(VoxelFeatures<C, F>{.coords = data<C>(a.coords),
                                          .feats = a.feats ? data<F>(*a.feats) : nullptr,
                                          .labels = a.labels ? data<int64_t>(*a.labels) : nullptr,
                                          .voxel_of_point = nullptr,
                                          .order = data<int64_t>(a.order),
                                          .point_offsets = data<int64_t>(a.point_offsets),
                                          .out_coords = mutable_data<C>(a.out_coords),
                                          .out_feats = mutable_data<F>(a.out_feats),
                                          .out_labels = mutable_data<int64_t>(a.out_labels),
                                          .num_points = a.coords.size(0),
                                          .num_voxels = a.out_coords.size(0),
                                          .dims = a.coords.size(1),
                                          .channels = a.out_feats.size(1)},
                      device.stream());
}

void expect_rows(const Tensor& t, int64_t dims, int64_t rows, const char* what) {
  expect(t.dim() == dims && t.size(0) == rows, op, what);
}

std::tuple<Tensor, Tensor, Tensor> voxel_features(Tensor coords, std::optional<Tensor> feats,
                                                  std::optional<Tensor> labels, Tensor voxel_of_point, Tensor order,
                                                  Tensor point_offsets) {
  coords = torch::stable::contiguous(coords);
  order = torch::stable::contiguous(order);
  point_offsets = torch::stable::contiguous(point_offsets);
  expect(coords.dim() == 2, op, "coords must be (N, D)");
  const int64_t points = coords.size(0);
  expect_rows(voxel_of_point, 1, points, "voxel_of_point must be (N,)");
  expect_rows(order, 1, points, "order must be (N,)");
  expect(order.scalar_type() == ScalarType::Long && point_offsets.scalar_type() == ScalarType::Long, op,
         "order and point_offsets must be int64");
  expect(point_offsets.dim() == 1 && point_offsets.size(0) >= 1, op, "point_offsets must be (V + 1,)");
  if (feats) {
    feats = torch::stable::contiguous(*feats);
    expect_rows(*feats, 2, points, "feats must be (N, C)");
    expect_float(*feats, op, "feats must be float32 or float64");
  }
  if (labels) {
    labels = torch::stable::contiguous(*labels);
    expect_rows(*labels, 1, points, "labels must be (N,)");
    expect(labels->scalar_type() == ScalarType::Long, op, "labels must be int64");
  }
  expect_float(coords, op, "coords must be float32 or float64");

  const int64_t voxels = point_offsets.size(0) - 1;
  const ScalarType coord_type = coords.scalar_type(), feat_type = feats ? feats->scalar_type() : coord_type;
  Tensor out_coords = empty_like_device(coords, {voxels, coords.size(1)}, coord_type);
  Tensor out_feats = empty_like_device(coords, {voxels, feats ? feats->size(1) : 0}, feat_type);
  Tensor out_labels = empty_like_device(coords, {labels ? voxels : 0}, ScalarType::Long);
  const Arguments a{coords, order, point_offsets, feats, labels, out_coords, out_feats, out_labels};
  const bool floats = feat_type == ScalarType::Float;
  if (coord_type == ScalarType::Float)
    floats ? run<float, float>(a) : run<float, double>(a);
  else
    floats ? run<double, float>(a) : run<double, double>(a);
  return {out_coords, out_feats, out_labels};
}

PCSEG_CUDA_IMPL(m) { m.impl("voxel_features", TORCH_BOX(&voxel_features)); }

}  // namespace
}  // namespace pcseg::bindings
