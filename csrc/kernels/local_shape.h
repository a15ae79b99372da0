// Eigenvalues, eigenvectors and shape features of small covariance matrices, for host and device alike.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "host_device.h"

namespace pcseg {

// A symmetric 3 x 3 matrix on its way to its diagonal: [xx yy zz] and [xy xz yz] of what is left, and the rotation so
// far, whose column j (v[j], v[3 + j], v[6 + j]) becomes the eigenvector of diagonal entry j.
struct Jacobi3 {
  double diagonal[3];
  double off[3];
  double v[9];
};

// Beyond this an off-diagonal entry, relative to its two diagonal ones, changes nothing that T can hold.
template <class T>
constexpr double kJacobiTolerance = sizeof(T) == 4 ? 0x1p-30 : 0x1p-54;

PCSEG_HD inline bool jacobi_small(double pp, double qq, double pq, double tolerance) {
  return std::fabs(pq) <= tolerance * (std::fabs(pp) + std::fabs(qq));
}

// One Jacobi rotation that makes the entry (p, q) zero, none where it is small; r is the third axis. Free of branches,
// so that a loop over matrices vectorises.
PCSEG_HD inline void jacobi_rotate(double& pp, double& qq, double& pq, double& rp, double& rq, double* v, int p, int q,
                                   double tolerance) {
  const bool small = jacobi_small(pp, qq, pq, tolerance);
  const double gap = qq - pp;
  const double root = std::sqrt(gap * gap + 4.0 * pq * pq);
  // The addend keeps 0 / 0 away and is lost beside any other denominator.
  const double tangent = 2.0 * pq / std::copysign(std::fabs(gap) + root + 1e-300, gap);
  const double t = small ? 0.0 : tangent;
  const double c = 1.0 / std::sqrt(t * t + 1.0), s = t * c;
  pp -= t * pq;
  qq += t * pq;
  pq = small ? pq : 0.0;
  const double old_rp = rp;
  rp = c * old_rp - s * rq;
  rq = s * old_rp + c * rq;
  for (int row = 0; row < 9; row += 3) {
    const double old = v[row + p];
    v[row + p] = c * old - s * v[row + q];
    v[row + q] = s * old + c * v[row + q];
  }
}

// Convergence is quadratic: four sweeps do for nearly all, and no matrix needs more than these.
constexpr int jacobi_sweeps = 6;

// Whether a sweep would change nothing: so it may be left out, and a result does not depend on what is solved beside it.
PCSEG_HD inline bool jacobi_done(const Jacobi3& a, double tolerance) {
  return jacobi_small(a.diagonal[0], a.diagonal[1], a.off[0], tolerance) &
         jacobi_small(a.diagonal[0], a.diagonal[2], a.off[1], tolerance) &
         jacobi_small(a.diagonal[1], a.diagonal[2], a.off[2], tolerance);
}

PCSEG_HD inline void jacobi_sweep(Jacobi3& a, double tolerance) {
  jacobi_rotate(a.diagonal[0], a.diagonal[1], a.off[0], a.off[1], a.off[2], a.v, 0, 1, tolerance);
  jacobi_rotate(a.diagonal[0], a.diagonal[2], a.off[1], a.off[0], a.off[2], a.v, 0, 2, tolerance);
  jacobi_rotate(a.diagonal[1], a.diagonal[2], a.off[2], a.off[0], a.off[1], a.v, 1, 2, tolerance);
}

// The bits of a number as an integer, its exponent and a number whose low bits count fractions of two.
template <class T>
struct Bits;
template <>
struct Bits<float> {
  using Integer = uint32_t;
  static constexpr int kMantissa = 23, kBias = 127, kTerms = 5, kSteps = 2, kFraction = 8;
  static constexpr Integer kHalfRoot = 0x3f3504f3, kOne = 0x3f800000, kWhole = 0x4b000000;  // 1 / sqrt 2, 1, 2^23
};
template <>
struct Bits<double> {
  using Integer = uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kTerms = 10, kSteps = 3, kFraction = 20;
  static constexpr Integer kHalfRoot = 0x3fe6a09e667f3bcd, kOne = 0x3ff0000000000000, kWhole = 0x4330000000000000;
};

// The logarithm of 0 < x < infinity to a few last bits, from operations that round alike on every device and vectorise;
// of 0 some negative number.
template <class T>
PCSEG_HD inline T natural_log(T x) {
  using B = Bits<T>;
  using Integer = typename B::Integer;
  const Integer bits = std::bit_cast<Integer>(x);
  const Integer biased = (bits + (B::kOne - B::kHalfRoot)) >> B::kMantissa;
  const T whole = static_cast<T>(Integer{1} << B::kMantissa) + B::kBias;
  const T exponent = std::bit_cast<T>(biased | B::kWhole) - whole;
  const T m = std::bit_cast<T>(bits - (biased << B::kMantissa) + B::kOne);  // from 1 / sqrt 2 to sqrt 2
  const T s = (m - 1) / (m + 1), z = s * s;
  T series = T(1) / (2 * B::kTerms + 1);
  for (int i = 2 * B::kTerms - 1; i >= 3; i -= 2) series = series * z + T(1) / i;
  return exponent * T(0.693147180559945309417) + (2 * s + 2 * s * z * series);
}

// The cube root of 0 <= x <= 1, likewise: a guess from the exponent, then Halley's steps.
template <class T>
PCSEG_HD inline T cube_root(T x) {
  using B = Bits<T>;
  constexpr T kTiny = std::numeric_limits<T>::min();
  const T third = natural_log(x) * T(1 / 3.0 / 0.693147180559945309417) + B::kBias;
  // Added to this, the last bit is worth 2^-kFraction: moved up, the bits are those of 2^third, but for a few per cent.
  const T shift = static_cast<T>(uint64_t{3} << (B::kMantissa - B::kFraction - 1));
  T y = std::bit_cast<T>(std::bit_cast<typename B::Integer>(third + shift) << (B::kMantissa - B::kFraction));
  for (int i = 0; i < B::kSteps; ++i) {
    const T cube = y * y * y;
    y = y * ((cube + 2 * x + kTiny) / (2 * cube + x + kTiny));
  }
  const T most = x * (1 / kTiny);  // 0 for 0, else beyond any root
  return y < most ? y : most;
}

constexpr int num_shape_features = 8;

// What local_geometry gives of a solved covariance: eigenvalues descending, not negative; the unit eigenvector of the
// least, its last nonzero component positive, (0, .., 0, 1) where all eigenvalues are 0; linearity, planarity,
// sphericity, omnivariance, anisotropy, eigenentropy, change of curvature, verticality. Where the first eigenvalue is 0
// all features are 0 that depend on the eigenvalues.
template <class T>
struct Shape {
  T eigenvalues[3];
  T normal[3];
  T features[num_shape_features];
};

// Free of branches, as jacobi_rotate. Of equal eigenvalues the last axis's counts as the least.
template <int Dims, class T>
PCSEG_HD inline Shape<T> shape_of(const Jacobi3& solved) {
  static_assert(Dims == 2 || Dims == 3);
  const double x = solved.diagonal[0], y = solved.diagonal[1], z = solved.diagonal[2];
  const double *v = solved.v;
  const double low = y < x ? y : x, high = y < x ? x : y;
  double l[3], axis[3];
  if constexpr (Dims == 2) {
    const bool second = y <= x;
    l[0] = high, l[1] = low, l[2] = 0.0;
    for (int d = 0; d < 2; ++d) axis[d] = second ? v[3 * d + 1] : v[3 * d];
    axis[2] = 0.0;
  } else {
    const bool third = z <= low, second = y <= x;
    const double inner = high < z ? high : z;
    l[0] = high < z ? z : high, l[1] = low < inner ? inner : low, l[2] = third ? z : low;
    for (int d = 0; d < 3; ++d) {
      const double other = second ? v[3 * d + 1] : v[3 * d];
      axis[d] = third ? v[3 * d + 2] : other;
    }
  }
  for (int d = 0; d < 3; ++d) l[d] = l[d] > 0.0 ? l[d] : 0.0;
  const bool flat = !(l[0] > 0.0);
  for (int d = 0; d < Dims; ++d) axis[d] = flat ? (d == Dims - 1 ? 1.0 : 0.0) : axis[d];
  double leading = axis[0];
  for (int d = 1; d < Dims; ++d) leading = axis[d] != 0.0 ? axis[d] : leading;
  const double sign = leading < 0.0 ? -1.0 : 1.0;

  Shape<T> out;
  for (int d = 0; d < 3; ++d) out.eigenvalues[d] = static_cast<T>(l[d]), out.normal[d] = static_cast<T>(sign * axis[d]);
  const double some = flat ? 1.0 : 0.0, first = l[0] + some, whole = l[0] + l[1] + l[2] + some, least = l[Dims - 1];
  T entropy = 0;
  for (int d = 0; d < Dims; ++d) {
    const T share = static_cast<T>(l[d] / whole);
    entropy -= share * natural_log(share);
  }
  const double middle = l[1] / first, last = least / first;
  out.features[0] = static_cast<T>((l[0] - l[1]) / first);
  out.features[1] = Dims == 3 ? static_cast<T>((l[1] - l[2]) / first) : T(0);
  out.features[2] = static_cast<T>(last);
  if constexpr (Dims == 3)
    out.features[3] = static_cast<T>(l[0] * static_cast<double>(cube_root(static_cast<T>(middle * last))));
  else
    out.features[3] = static_cast<T>(l[0] * std::sqrt(middle));
  out.features[4] = static_cast<T>((l[0] - least) / first);
  out.features[5] = entropy;
  out.features[6] = static_cast<T>(least / whole);
  out.features[7] = static_cast<T>(1.0 - std::fabs(axis[Dims - 1]));
  return out;
}

}  // namespace pcseg
