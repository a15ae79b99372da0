// Selections between computed numbers become masks only where nobody looks at the processor's exception flags.
#pragma GCC optimize("no-trapping-math")

#include "local_geometry.h"

namespace pcseg::PCSEG_ISA {
namespace {

// x, y, z, 1 of a point: four products with it are all moments up to the second.
typedef double Row __attribute__((vector_size(32)));

typedef int64_t Order __attribute__((vector_size(32)));

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
void point(const T* at, Row& out) {
  typedef T Narrow __attribute__((vector_size(4 * sizeof(T))));
  out = __builtin_convertvector((Narrow{at[0], at[1], Dims == 3 ? at[Dims - 1] : T(0), T(1)}), Row);
}

template <int Dims, class T>
bool covariance(const LocalGeometry<T>& a, int64_t list, Jacobi3& out) {
  const int64_t* entry = a.neighbors + list * a.width;
  const uint64_t rows = static_cast<uint64_t>(a.num_rows);
  bool inside = true;
  int64_t h = 0;
  for (; h < a.width && static_cast<uint64_t>(entry[h]) >= rows; ++h) inside &= entry[h] == a.num_rows;
  Row squares{}, products{}, sum{};  // [xx yy zz n], [xy yz zx n], [x y z n]
  if (h < a.width) {
    Row origin, x;
    point<Dims>(a.coords + entry[h] * Dims, origin);
    origin[3] = 0.0;
    for (; h < a.width; ++h) {
      const uint64_t row = static_cast<uint64_t>(entry[h]);
      if (row >= rows) {
        inside &= row == rows;
        continue;
      }
      point<Dims>(a.coords + row * Dims, x);
      x -= origin;
      squares += x * x;
      products += x * __builtin_shuffle(x, Order{1, 2, 0, 3});
      sum += x;
    }
  }
  const double share = 1.0 / (sum[3] > 0.0 ? sum[3] : 1.0);
  const Row mean = sum * share;
  const auto of = [&](double product, int d, int e) { return product * share - mean[d] * mean[e]; };
  // In the plane, an eigenvalue below all others keeps the third axis last.
  out = {{of(squares[0], 0, 0), of(squares[1], 1, 1), Dims == 3 ? of(squares[2], 2, 2) : -1.0},
         {of(products[0], 0, 1), of(products[2], 0, 2), of(products[1], 1, 2)},
         {1, 0, 0, 0, 1, 0, 0, 0, 1}};
  return inside;
}

template <class T>
void solve(Block& matrices) {
  for (int sweep = 0; sweep < jacobi_sweeps; ++sweep) {
    for (int64_t i = 0; i < block; ++i) {
      Jacobi3 a = matrices.get(i);
      jacobi_sweep(a, kJacobiTolerance<T>);
      matrices.set(i, a);
    }
    int64_t left = 0;
    for (int64_t i = 0; i < block; ++i) left += !jacobi_done(matrices.get(i), kJacobiTolerance<T>);
    if (left == 0) return;
  }
}

// As Block.
template <class T>
struct ShapeBlock {
  T eigenvalues[3][block];
  T normal[3][block];
  T features[num_shape_features][block];

  void set(int64_t i, const Shape<T>& shape) {
    for (int j = 0; j < 3; ++j) eigenvalues[j][i] = shape.eigenvalues[j];
    for (int j = 0; j < 3; ++j) normal[j][i] = shape.normal[j];
    for (int j = 0; j < num_shape_features; ++j) features[j][i] = shape.features[j];
  }
};

template <int Dims, class T>
void write(const ShapeBlock<T>& shapes, const LocalGeometry<T>& a, int64_t first, int64_t count) {
  T *eigenvalues = a.eigenvalues + first * Dims, *normals = a.normals + first * Dims;
  T* features = a.features + first * num_shape_features;
  for (int64_t i = 0; i < count; ++i) {
    for (int j = 0; j < Dims; ++j) eigenvalues[i * Dims + j] = shapes.eigenvalues[j][i];
    for (int j = 0; j < Dims; ++j) normals[i * Dims + j] = shapes.normal[j][i];
    for (int j = 0; j < num_shape_features; ++j) features[i * num_shape_features + j] = shapes.features[j][i];
  }
}

template <int Dims, class T>
bool run(const LocalGeometry<T>& a, const Parallel& parallel) {
  std::atomic<bool> inside{true};
  parallel.ranges(a.num_lists, 256, [&](int64_t begin, int64_t end) {
    Block matrices{};
    ShapeBlock<T> shapes;
    for (int64_t first = begin; first < end; first += block) {
      const int64_t count = std::min(block, end - first);
      for (int64_t i = 0; i < count; ++i) {
        Jacobi3 matrix;
        if (!covariance<Dims>(a, first + i, matrix)) inside = false;
        matrices.set(i, matrix);
      }
      solve<T>(matrices);
      for (int64_t i = 0; i < block; ++i) shapes.set(i, shape_of<Dims, T>(matrices.get(i)));
      write<Dims>(shapes, a, first, count);
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
