#include "../kernels/gaussian_filter.h"
#include "../kernels/permutohedral_lattice.h"
#include "lattice_inputs.h"

namespace pcseg::bindings {
namespace {

template <class T>
LatticeTensors build(const Tensor& positions, const Tensor& offsets) {
  constexpr auto op = "permutohedral_lattice";
  const int64_t points = positions.size(0), colours = positions.size(1) + 1;
  Tensor vertices = empty_like_device(positions, {points, colours}, ScalarType::Int);
  Tensor weights = empty_like_device(positions, {points, colours}, positions.scalar_type());
  LatticeNeighbors neighbors{positions, colours, vertices};
  const int64_t count = run_permutohedral_lattice<T>({.positions = data<T>(positions),
                                                      .offsets = data<int64_t>(offsets),
                                                      .vertices = mutable_data<int32_t>(vertices),
                                                      .weights = mutable_data<T>(weights),
                                                      .num_points = points,
                                                      .num_clouds = offsets.size(0) - 1,
                                                      .dims = static_cast<int>(colours - 1),
                                                      .allocate = &LatticeNeighbors::allocate,
                                                      .context = &neighbors},
                                                     torch_threads());
  expect_lattice_fits(count, op);
  return {vertices, weights, neighbors.tensor};
}

LatticeTensors permutohedral_lattice(Tensor positions, Tensor offsets) {
  constexpr auto op = "permutohedral_lattice";
  positions = torch::stable::contiguous(positions);
  offsets = torch::stable::contiguous(offsets);
  expect_lattice_positions(positions, op);
  expect_offsets(offsets, positions.size(0), op);
  return positions.scalar_type() == ScalarType::Float ? build<float>(positions, offsets)
                                                      : build<double>(positions, offsets);
}

template <class T>
bool filter(const FilterInputs& in, Tensor& out) {
  return run_gaussian_filter<T>(in.arguments<T>(out), torch_threads());
}

Tensor gaussian_filter(Tensor values, Tensor vertices, Tensor weights, Tensor neighbors, bool transpose) {
  constexpr auto op = "gaussian_filter";
  const FilterInputs in(values, vertices, weights, neighbors, transpose, op);
  Tensor out = empty_like_device(in.values, {in.values.size(0), in.values.size(1)}, in.values.scalar_type());
  const bool good = in.values.scalar_type() == ScalarType::Float ? filter<float>(in, out) : filter<double>(in, out);
  expect(good, op, "the lattice's indices lie outside their ranges");
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "permutohedral_lattice(Tensor positions, Tensor offsets) -> (Tensor vertices, Tensor weights, Tensor neighbors)");
  m.def(
      "gaussian_filter(Tensor values, Tensor vertices, Tensor weights, Tensor neighbors, bool transpose) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("permutohedral_lattice", TORCH_BOX(&permutohedral_lattice));
  m.impl("gaussian_filter", TORCH_BOX(&gaussian_filter));
}

}  // namespace
}  // namespace pcseg::bindings
