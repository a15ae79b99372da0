#include "../kernels/gaussian_filter_cuda.h"
#include "../kernels/permutohedral_lattice_cuda.h"
#include "cuda_common.h"
#include "lattice_inputs.h"

namespace pcseg::bindings {
namespace {

template <class T>
LatticeTensors build(const Tensor& positions, const Tensor& offsets) {
  constexpr auto op = "permutohedral_lattice";
  const OnDevice device(positions);
  const int64_t points = positions.size(0), colours = positions.size(1) + 1;
  Tensor vertices = empty_like_device(positions, {points, colours}, ScalarType::Int);
  Tensor weights = empty_like_device(positions, {points, colours}, positions.scalar_type());
  if (points == 0) {
    Tensor none = empty_like_device(positions, {colours, 1, 2}, ScalarType::Int);
    return {vertices, weights, torch::stable::zero_(none)};
  }
  LatticeNeighbors neighbors{positions, colours, vertices};
  const PermutohedralLattice<T> a{.positions = data<T>(positions),
                                  .offsets = data<int64_t>(offsets),
                                  .vertices = mutable_data<int32_t>(vertices),
                                  .weights = mutable_data<T>(weights),
                                  .num_points = points,
                                  .num_clouds = offsets.size(0) - 1,
                                  .dims = static_cast<int>(colours - 1),
                                  .allocate = &LatticeNeighbors::allocate,
                                  .context = &neighbors};
  LatticePlan plan;
  Tensor extent = workspace(positions, lattice_plan_workspace_bytes());
  expect_lattice_fits(lattice_plan_cuda(a, plan, extent.data_ptr(), device.stream()), op);
  Tensor memory = workspace(positions, permutohedral_lattice_workspace_bytes(points, a.dims, plan));
  permutohedral_lattice_cuda(a, plan, memory.data_ptr(), device.stream());
  return {vertices, weights, neighbors.tensor};
}

LatticeTensors permutohedral_lattice(Tensor positions, Tensor offsets) {
  constexpr auto op = "permutohedral_lattice";
  positions = torch::stable::contiguous(positions);
  offsets = torch::stable::contiguous(offsets);
  expect_lattice_positions(positions, op);
  expect(offsets.dim() == 1 && offsets.size(0) >= 1 && offsets.scalar_type() == ScalarType::Long, op,
         "offsets must be (B + 1,) int64");
  return positions.scalar_type() == ScalarType::Float ? build<float>(positions, offsets)
                                                      : build<double>(positions, offsets);
}

template <class T>
void filter(const FilterInputs& in, Tensor& out) {
  const OnDevice device(in.values);
  const GaussianFilter<T> a = in.arguments<T>(out);
  Tensor memory = workspace(in.values, gaussian_filter_workspace_bytes(a));
  gaussian_filter_cuda(a, memory.data_ptr(), device.stream());
}

Tensor gaussian_filter(Tensor values, Tensor vertices, Tensor weights, Tensor neighbors, bool transpose) {
  const FilterInputs in(values, vertices, weights, neighbors, transpose, "gaussian_filter");
  Tensor out = empty_like_device(in.values, {in.values.size(0), in.values.size(1)}, in.values.scalar_type());
  if (in.values.scalar_type() == ScalarType::Float)
    filter<float>(in, out);
  else
    filter<double>(in, out);
  return out;
}

PCSEG_CUDA_IMPL(m) {
  m.impl("permutohedral_lattice", TORCH_BOX(&permutohedral_lattice));
  m.impl("gaussian_filter", TORCH_BOX(&gaussian_filter));
}

}  // namespace
}  // namespace pcseg::bindings
