#include "local_geometry.h"

namespace pcseg::PCSEG_ISA {
namespace {

// x, y, z, 1 of a point: four products with it are all moments up to the second.
typedef double Row __attribute__((vector_size(32)));

constexpr int64_t block = 32;  // matrices solved side by side

// Structure of arrays, so that the sweeps vectorise over matrices.
struct Block {
  double diagonal[3][block];
  double off[3][block];
  double v[9][block];

  Jacobi3 get(int64_t i) const {
    Jacobi3 a;
    for (int j = 0; j < 3; ++j) a.diagonal[j] = diagonal[j][i];
    for (int j = 0; j < 3; ++j) a.off[j] = off[j][i];
    for (int j = 0; j < 9; ++j) a.v[j] = v[j][i];
    return a;
  }
  void set(int64_t i, const Jacobi3& a) {
    for (int j = 0; j < 3; ++j) diagonal[j][i] = a.diagonal[j];
    for (int j = 0; j < 3; ++j) off[j][i] = a.off[j];
    for (int j = 0; j < 9; ++j) v[j][i] = a.v[j];
  }
};

template <int Dims, class T>
bool covariance(const LocalGeometry<T>& a, int64_t list, Jacobi3& out) {
  const int64_t* entry = a.neighbors + list * a.width;
  const uint64_t rows = static_cast<uint64_t>(a.num_rows);
  bool inside = true;
  Row origin{}, by_x{}, by_y{}, by_z{}, sum{};
  for (int64_t h = 0; h < a.width; ++h) {
    const uint64_t row = static_cast<uint64_t>(entry[h]);
    if (row >= rows) {
      inside &= row == rows;
      continue;
    }
    const T* at = a.coords + row * Dims;
    Row x{static_cast<double>(at[0]), static_cast<double>(at[1]), Dims == 3 ? static_cast<double>(at[Dims - 1]) : 0.0,
          1.0};
    if (sum[3] == 0.0) origin = Row{x[0], x[1], x[2], 0.0};
    x -= origin;
    by_x += x * x[0];
    by_y += x * x[1];
    by_z += x * x[2];
    sum += x;
  }
  const double count = sum[3] > 0.0 ? sum[3] : 1.0;
  const Row mean = sum / count;
  const Row cov_x = by_x / count - mean * mean[0], cov_y = by_y / count - mean * mean[1];
  const double cov_zz = by_z[2] / count - mean[2] * mean[2];
  // In the plane, an eigenvalue below all others keeps the third axis last.
  out = {{cov_x[0], cov_y[1], Dims == 3 ? cov_zz : -1.0}, {cov_x[1], cov_x[2], cov_y[2]}, {1, 0, 0, 0, 1, 0, 0, 0, 1}};
  return inside;
}

void solve(Block& matrices) {
  for (int sweep = 0; sweep < jacobi_sweeps; ++sweep)
    for (int64_t i = 0; i < block; ++i) {
      Jacobi3 a = matrices.get(i);
      jacobi_sweep(a);
      matrices.set(i, a);
    }
}

template <int Dims, class T>
bool run(const LocalGeometry<T>& a, const Parallel& parallel) {
  std::atomic<bool> inside{true};
  parallel.ranges(a.num_lists, 256, [&](int64_t begin, int64_t end) {
    Block matrices{};
    for (int64_t first = begin; first < end; first += block) {
      const int64_t count = std::min(block, end - first);
      for (int64_t i = 0; i < count; ++i) {
        Jacobi3 matrix;
        if (!covariance<Dims>(a, first + i, matrix)) inside = false;
        matrices.set(i, matrix);
      }
      solve(matrices);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t list = first + i;
        write_shape<Dims>(matrices.get(i), a.eigenvalues + list * Dims, a.normals + list * Dims,
                          a.features + list * num_shape_features);
      }
    }
  });
  return inside;
}

}  // namespace

bool local_geometry(const LocalGeometry<float>& a, const Parallel& parallel) {
  return a.dims == 2 ? run<2>(a, parallel) : run<3>(a, parallel);
}
bool local_geometry(const LocalGeometry<double>& a, const Parallel& parallel) {
  return a.dims == 2 ? run<2>(a, parallel) : run<3>(a, parallel);
}

}  // namespace pcseg::PCSEG_ISA
