// The exponential of a vector, to about one unit in the last place.
#pragma once

#include <type_traits>

#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

// exp(x) for x <= 0; 0 below the smallest normal result (and for minus infinity), NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by its series; 2^n by its bits.
template <class T>
inline Vector<T> exp_of_nonpositive(Vector<T> x) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr bool single = sizeof(T) == 4;
  constexpr int mantissa = single ? 23 : 52;
  constexpr T lowest = single ? T(-87.33654) : T(-708.3964185322641);
  constexpr T round = T(Bits{3} << (mantissa - 1));  // adding it rounds to an integer, which its low bits then hold
  constexpr T log2_e = T(1.4426950408889634);
  // ln 2 in two parts; the first times any n is exact.
  constexpr T high = single ? T(0.693359375) : T(0.693147180369123816490);
  constexpr T low = single ? T(-2.12194440054690581e-4) : T(1.90821492927058770002e-10);
  const auto vanishes = x < broadcast(lowest);
  const Vector<T> inside = vanishes ? broadcast(lowest) : x;
  const Vector<T> shifted = multiply_add<T>(inside, broadcast(log2_e), broadcast(round)), n = shifted - round;
  const Vector<T> r = multiply_add<T>(n, broadcast(-low), multiply_add<T>(n, broadcast(-high), inside));
  constexpr double inverse_factorial[] = {1.0,
                                          1.0,
                                          1.0 / 2,
                                          1.0 / 6,
                                          1.0 / 24,
                                          1.0 / 120,
                                          1.0 / 720,
                                          1.0 / 5040,
                                          1.0 / 40320,
                                          1.0 / 362880,
                                          1.0 / 3628800,
                                          1.0 / 39916800,
                                          1.0 / 479001600,
                                          1.0 / 6227020800};
  constexpr int degree = single ? 7 : 13;
  Vector<T> power = broadcast(static_cast<T>(inverse_factorial[degree]));
  for (int i = degree - 1; i >= 0; --i) power = multiply_add<T>(power, r, broadcast(static_cast<T>(inverse_factorial[i])));
  const Vector<Bits> exponent = ((Vector<Bits>)shifted - (Vector<Bits>)broadcast(round)) << mantissa;
  const Vector<T> result = (Vector<T>)((Vector<Bits>)power + exponent);
  return vanishes ? Vector<T>{} : x != x ? x : result;
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
