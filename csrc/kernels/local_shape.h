// Eigenvalues, eigenvectors and shape features of small covariance matrices, for host and device alike.
#pragma once

#include <cmath>

#include "host_device.h"

namespace pcseg {

// A symmetric 3 x 3 matrix on its way to its diagonal: [xx yy zz] and [xy xz yz] of what is left, and the rotation so
// far, whose column j (v[j], v[3 + j], v[6 + j]) becomes the eigenvector of diagonal entry j.
struct Jacobi3 {
  double diagonal[3];
  double off[3];
  double v[9];
};

// One Jacobi rotation that makes the entry (p, q) zero; r is the third axis. Free of branches, so that a loop over
// matrices vectorises.
PCSEG_HD inline void jacobi_rotate(double& pp, double& qq, double& pq, double& rp, double& rq, double* v, int p, int q) {
  const double gap = qq - pp;
  const double root = std::sqrt(gap * gap + 4.0 * pq * pq);
  // The addend keeps 0 / 0 away and is lost beside any other denominator.
  const double t = 2.0 * pq / std::copysign(std::fabs(gap) + root + 1e-300, gap);
  const double c = 1.0 / std::sqrt(t * t + 1.0), s = t * c;
  pp -= t * pq;
  qq += t * pq;
  pq = 0.0;
  const double old_rp = rp;
  rp = c * old_rp - s * rq;
  rq = s * old_rp + c * rq;
  for (int row = 0; row < 9; row += 3) {
    const double old = v[row + p];
    v[row + p] = c * old - s * v[row + q];
    v[row + q] = s * old + c * v[row + q];
  }
}

// Convergence is quadratic: five sweeps bring any matrix to rounding. Always the same number, so that a result does not
// depend on what else is solved beside it.
constexpr int jacobi_sweeps = 6;

PCSEG_HD inline void jacobi_sweep(Jacobi3& a) {
  jacobi_rotate(a.diagonal[0], a.diagonal[1], a.off[0], a.off[1], a.off[2], a.v, 0, 1);
  jacobi_rotate(a.diagonal[0], a.diagonal[2], a.off[1], a.off[0], a.off[2], a.v, 0, 2);
  jacobi_rotate(a.diagonal[1], a.diagonal[2], a.off[2], a.off[0], a.off[1], a.v, 1, 2);
}

// Orders the eigenvalues descending, equal ones as they are.
PCSEG_HD inline void jacobi_sort(const Jacobi3& a, int* order) {
  const double* d = a.diagonal;
  order[0] = d[0] >= d[1] ? (d[0] >= d[2] ? 0 : 2) : (d[1] >= d[2] ? 1 : 2);
  order[2] = d[2] <= d[1] ? (d[2] <= d[0] ? 2 : 0) : (d[1] <= d[0] ? 1 : 0);
  order[1] = 3 - order[0] - order[2];
}

constexpr int num_shape_features = 8;

// Features of eigenvalues l[0] >= .. >= l[dims - 1] >= 0 (dims 2 or 3) and of the last component of the unit normal, in
// the order linearity, planarity, sphericity, omnivariance, anisotropy, eigenentropy, change of curvature, verticality.
// Where l[0] is 0 all are 0 that depend on the eigenvalues.
template <class T>
PCSEG_HD inline void shape_features(const double* l, int dims, double normal_up, T* out) {
  const double first = l[0] > 0.0 ? l[0] : 1.0, least = l[dims - 1];
  const double sum = l[0] + l[1] + (dims == 3 ? l[2] : 0.0), whole = sum > 0.0 ? sum : 1.0;
  T entropy = 0;
  for (int i = 0; i < dims; ++i) {
    const T share = static_cast<T>(l[i] / whole);
    if (share > T(0)) entropy -= share * std::log(share);
  }
  out[0] = static_cast<T>((l[0] - l[1]) / first);
  out[1] = dims == 3 ? static_cast<T>((l[1] - l[2]) / first) : T(0);
  out[2] = static_cast<T>(least / first);
  out[3] = static_cast<T>(dims == 3 ? std::cbrt(l[0] * l[1] * l[2]) : std::sqrt(l[0] * l[1]));
  out[4] = static_cast<T>((l[0] - least) / first);
  out[5] = entropy;
  out[6] = static_cast<T>(least / whole);
  out[7] = static_cast<T>(1.0 - std::fabs(normal_up));
}

// What local_geometry gives of a solved covariance: eigenvalues (Dims) descending, not negative; the unit eigenvector of
// the least (Dims), its last nonzero component positive, (0, .., 0, 1) where all eigenvalues are 0; the features.
template <int Dims, class T>
PCSEG_HD inline void write_shape(const Jacobi3& solved, T* eigenvalues, T* normal, T* features) {
  int order[3];
  jacobi_sort(solved, order);
  double value[Dims], axis[Dims];
  for (int d = 0; d < Dims; ++d) value[d] = solved.diagonal[order[d]] > 0.0 ? solved.diagonal[order[d]] : 0.0;
  for (int d = 0; d < Dims; ++d) axis[d] = value[0] > 0.0 ? solved.v[3 * d + order[Dims - 1]] : d == Dims - 1;
  int last = Dims - 1;
  while (last > 0 && axis[last] == 0.0) --last;
  const double sign = axis[last] < 0.0 ? -1.0 : 1.0;
  for (int d = 0; d < Dims; ++d) {
    eigenvalues[d] = static_cast<T>(value[d]);
    normal[d] = static_cast<T>(sign * axis[d]);
  }
  shape_features(value, Dims, axis[Dims - 1], features);
}

}  // namespace pcseg
