#include <string>

#include "../kernels/gaussian_filter.h"
#include "../kernels/permutohedral_lattice.h"
#include "lattice_inputs.h"

namespace pcseg::bindings {
namespace {

struct Links {
  const Tensor& like;
  int colours;
  int64_t entries;
  Tensor offsets, list, neighbors;
};

LatticeLinks allocate(void* context, int64_t count, int64_t groups) {
  auto& links = *static_cast<Links*>(context);
  links.offsets = empty_like_device(links.like, {groups + 1}, ScalarType::Long);
  links.list = empty_like_device(links.like, {links.entries}, ScalarType::Int);
  links.neighbors = empty_like_device(links.like, {links.colours, count + 1, 2}, ScalarType::Int);
  return {mutable_data<int64_t>(links.offsets), mutable_data<int32_t>(links.list),
          mutable_data<int32_t>(links.neighbors)};
}

template <class T>
LatticeTensors build(const Tensor& positions, const Tensor& offsets) {
  constexpr auto op = "permutohedral_lattice";
  const int64_t points = positions.size(0), colours = positions.size(1) + 1;
  Tensor vertices = empty_like_device(positions, {points, colours}, ScalarType::Int);
  Tensor weights = empty_like_device(positions, {points, colours}, positions.scalar_type());
  Links links{positions, static_cast<int>(colours), points * colours, vertices, vertices, vertices};
  const int64_t count = run_permutohedral_lattice<T>({.positions = data<T>(positions),
                                                      .offsets = data<int64_t>(offsets),
                                                      .vertices = mutable_data<int32_t>(vertices),
                                                      .weights = mutable_data<T>(weights),
                                                      .num_points = points,
                                                      .num_clouds = offsets.size(0) - 1,
                                                      .dims = static_cast<int>(colours - 1),
                                                      .allocate = &allocate,
                                                      .context = &links},
                                                     torch_threads());
  expect_lattice_fits(count, op);
  return {vertices, weights, links.offsets, links.list, links.neighbors};
}

LatticeTensors permutohedral_lattice(Tensor positions, Tensor offsets) {
  constexpr auto op = "permutohedral_lattice";
  positions = torch::stable::contiguous(positions);
  offsets = torch::stable::contiguous(offsets);
  expect_lattice_positions(positions, op);
  expect_cloud_offsets(offsets, positions.size(0), op);
  return positions.scalar_type() == ScalarType::Float ? build<float>(positions, offsets)
                                                      : build<double>(positions, offsets);
}

template <class T>
bool filter(const FilterInputs& in, Tensor& out) {
  return run_gaussian_filter<T>(in.arguments<T>(out), torch_threads());
}

Tensor gaussian_filter(Tensor values, Tensor vertices, Tensor weights, Tensor entry_offsets, Tensor entries,
                       Tensor neighbors, bool transpose) {
  constexpr auto op = "gaussian_filter";
  const FilterInputs in(values, vertices, weights, entry_offsets, entries, neighbors, transpose, op);
  const int64_t group = int64_t{1} << lattice_group_shift(in.num_vertices());
  expect(in.num_groups() == (in.num_vertices() + group - 1) / group, op, "entry_offsets must be (G + 1,)");
  Tensor out = empty_like_device(in.values, {in.values.size(0), in.values.size(1)}, in.values.scalar_type());
  const bool good = in.values.scalar_type() == ScalarType::Float ? filter<float>(in, out) : filter<double>(in, out);
  expect(good, op, "the lattice's indices lie outside their ranges");
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "permutohedral_lattice(Tensor positions, Tensor offsets) -> "
      "(Tensor vertices, Tensor weights, Tensor entry_offsets, Tensor entries, Tensor neighbors)");
  m.def(
      "gaussian_filter(Tensor values, Tensor vertices, Tensor weights, Tensor entry_offsets, Tensor entries, "
      "Tensor neighbors, bool transpose) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) {
  m.impl("permutohedral_lattice", TORCH_BOX(&permutohedral_lattice));
  m.impl("gaussian_filter", TORCH_BOX(&gaussian_filter));
}

}  // namespace
}  // namespace pcseg::bindings
