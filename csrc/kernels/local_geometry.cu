#include <cassert>

#include "cuda_launch.h"
#include "local_geometry_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 128;

// One thread a list: its covariance, then the CPU's sweeps.
template <int Dims, class T>
__device__ Jacobi3 covariance(const LocalGeometry<T>& a, int64_t list) {
  double origin[Dims] = {}, sum[Dims] = {}, product[Dims][Dims] = {};
  double count = 0;
  for (int64_t h = 0; h < a.width; ++h) {
    const int64_t row = a.neighbors[list * a.width + h];
    assert(0 <= row && row <= a.num_rows);
    if (row == a.num_rows) continue;
    double x[Dims];
#pragma unroll
    for (int d = 0; d < Dims; ++d) {
      x[d] = a.coords[row * Dims + d];
      if (count == 0) origin[d] = x[d];
      x[d] -= origin[d];
    }
#pragma unroll
    for (int d = 0; d < Dims; ++d) {
      sum[d] += x[d];
#pragma unroll
      for (int e = d; e < Dims; ++e) product[d][e] += x[e] * x[d];
    }
    count += 1;
  }
  const double share = 1.0 / (count > 0 ? count : 1.0);
  const auto of = [&](int d, int e) { return product[d][e] * share - sum[d] * share * (sum[e] * share); };
  constexpr int kLast = Dims - 1;
  // In the plane, an eigenvalue below all others keeps the third axis last.
  return {{of(0, 0), of(1, 1), Dims == 3 ? of(kLast, kLast) : -1.0},
          {of(0, 1), Dims == 3 ? of(0, kLast) : 0.0, Dims == 3 ? of(1, kLast) : 0.0},
          {1, 0, 0, 0, 1, 0, 0, 0, 1}};
}

template <int Dims, class T>
__global__ void __launch_bounds__(kThreads) geometry_kernel(LocalGeometry<T> a) {
  for (int64_t list = thread_in_grid(); list < a.num_lists; list += threads_in_grid()) {
    Jacobi3 solved = covariance<Dims>(a, list);
    constexpr double kTolerance = kJacobiTolerance<T>;
    for (int sweep = 0; sweep < jacobi_sweeps && !jacobi_done(solved, kTolerance); ++sweep)
      jacobi_sweep(solved, kTolerance);
    const Shape<T> shape = shape_of<Dims, T>(solved);
#pragma unroll
    for (int d = 0; d < Dims; ++d) {
      a.eigenvalues[list * Dims + d] = shape.eigenvalues[d];
      a.normals[list * Dims + d] = shape.normal[d];
    }
#pragma unroll
    for (int f = 0; f < num_shape_features; ++f) a.features[list * num_shape_features + f] = shape.features[f];
  }
}

template <class T>
void run(const LocalGeometry<T>& a, void* stream) {
  if (a.num_lists == 0) return;
  const auto kernel = a.dims == 2 ? geometry_kernel<2, T> : geometry_kernel<3, T>;
  launch("local_geometry", kernel, blocks_for(a.num_lists, kThreads), kThreads, 0, stream, a);
}

}  // namespace
}  // namespace cuda

void local_geometry_cuda(const LocalGeometry<float>& a, void* stream) { cuda::run(a, stream); }
void local_geometry_cuda(const LocalGeometry<double>& a, void* stream) { cuda::run(a, stream); }

}  // namespace pcseg
