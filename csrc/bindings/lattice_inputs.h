// What the CPU's and the GPU's bindings of the permutohedral lattice check and pass on alike.
#pragma once

#include <limits>
#include <string>

#include "../kernels/gaussian_filter.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

using LatticeTensors = std::tuple<Tensor, Tensor, Tensor>;

// Made when the kernel knows how many lattice points there are.
struct LatticeNeighbors {
  const Tensor& like;
  int64_t colours;
  Tensor tensor;

  static int32_t* allocate(void* context, int64_t num_vertices) {
    auto& self = *static_cast<LatticeNeighbors*>(context);
    self.tensor = empty_like_device(self.like, {self.colours, num_vertices + 1, 2}, ScalarType::Int);
    return mutable_data<int32_t>(self.tensor);
  }
};

inline void expect_lattice_positions(const Tensor& positions, const char* op) {
  expect(positions.dim() == 2 && positions.size(1) >= 2 && positions.size(1) <= 8, op, "positions must be (N, 2 to 8)");
  expect(positions.scalar_type() == ScalarType::Float || positions.scalar_type() == ScalarType::Double, op,
         "positions must be float32 or float64");
  expect(positions.size(0) < std::numeric_limits<int32_t>::max() / (positions.size(1) + 1), op,
         "N * (D + 1) must be below 2^31 - 1");
}

inline void expect_lattice_fits(int64_t count, const char* op) {
  if (count < 0)
    expect(false, op, ("row " + std::to_string(-1 - count) + " of positions is not finite, or beyond +-1e7").c_str());
}

struct FilterInputs {
  Tensor values, vertices, weights, neighbors;
  bool transpose;

  FilterInputs(const Tensor& v, const Tensor& p, const Tensor& w, const Tensor& n, bool transpose, const char* op)
      : values(torch::stable::contiguous(v)),
        vertices(torch::stable::contiguous(p)),
        weights(torch::stable::contiguous(w)),
        neighbors(torch::stable::contiguous(n)),
        transpose(transpose) {
    expect(values.dim() == 2, op, "values must be (N, C)");
    expect(values.scalar_type() == ScalarType::Float || values.scalar_type() == ScalarType::Double, op,
           "values must be float32 or float64");
    expect(weights.scalar_type() == values.scalar_type(), op, "values must have the dtype of the lattice's positions");
    expect(vertices.scalar_type() == ScalarType::Int && neighbors.scalar_type() == ScalarType::Int, op,
           "the lattice's indices must be int32");
    expect(vertices.dim() == 2 && vertices.size(1) >= 3 && vertices.size(1) <= 9 && weights.dim() == 2, op,
           "vertices must be (N, D + 1)");
    const int64_t points = vertices.size(0), colours = vertices.size(1);
    expect(values.size(0) == points, op, "values must have as many rows as the lattice has points");
    expect(points < std::numeric_limits<int32_t>::max() / colours, op, "N * (D + 1) must be below 2^31 - 1");
    expect(weights.size(0) == points && weights.size(1) == colours, op, "weights must be (N, D + 1)");
    expect(neighbors.dim() == 3 && neighbors.size(0) == colours && neighbors.size(1) >= 1 &&
               neighbors.size(1) <= points * colours + 1 && neighbors.size(2) == 2,
           op, "neighbors must be (D + 1, M + 1, 2)");
  }

  template <class T>
  GaussianFilter<T> arguments(Tensor& out) const {
    return {.values = data<T>(values),
            .vertices = data<int32_t>(vertices),
            .weights = data<T>(weights),
            .neighbors = data<int32_t>(neighbors),
            .out = mutable_data<T>(out),
            .num_points = values.size(0),
            .num_vertices = neighbors.size(1) - 1,
            .channels = values.size(1),
            .dims = static_cast<int>(vertices.size(1)) - 1,
            .transpose = transpose};
  }
};

}  // namespace
}  // namespace pcseg::bindings
