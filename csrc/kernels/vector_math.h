// Exponential, logarithm and sums across lanes for vectors: the compiler calls the scalar library one lane at a time.
#pragma once

#include <utility>

#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <class T>
struct FloatFormat;
template <>
struct FloatFormat<float> {
  static constexpr int kMantissa = 23, kExpTerms = 7, kLogTerms = 5;
  static constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, in the lowest bits
  // log(2) in two parts; n times the first is exact for the n that occur.
  static constexpr float kLn2High = 6.9313812256e-01f, kLn2Low = 9.0580006145e-06f, kLargest = 88.0f;
  static constexpr int32_t kRootHalf = 0x3f3504f3;
};
template <>
struct FloatFormat<double> {
  static constexpr int kMantissa = 52, kExpTerms = 13, kLogTerms = 11;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kLargest = 709.0;
  static constexpr int64_t kRootHalf = 0x3fe6a09e667f3bcd;
};

// The named lanes of a, then of b.
template <class T, size_t... Lane>
[[gnu::always_inline]] inline Vector<T> pair_sum_lanes(Vector<T> a, Vector<T> b, std::index_sequence<Lane...>, auto step) {
  constexpr size_t h = decltype(step)::value, lanes = sizeof...(Lane);
  return __builtin_shufflevector(a, b, (Lane & h ? lanes + Lane - h : Lane)...) +
         __builtin_shufflevector(a, b, (Lane & h ? lanes + Lane : Lane + h)...);
}

// Lanes whose index has the bit `step` clear: a[lane] + a[lane + step]; the others: b[lane - step] + b[lane].
template <int step, class T>
[[gnu::always_inline]] inline Vector<T> pair_sum(Vector<T> a, Vector<T> b) {
  return pair_sum_lanes<T>(a, b, std::make_index_sequence<kLanes<T>>{}, std::integral_constant<size_t, step>{});
}

// Lane e is the sum of the lanes of vector(e), for e < n; vector(e) is asked for up to the next multiple of 4, and the
// lanes beyond are 0. The sum does not depend on which lane it lands in.
template <class T, int first = 0, int count = kLanes<T>, class F>
[[gnu::always_inline]] inline Vector<T> sums_of_lanes(int n, F&& vector) {
  if constexpr (count == 1) {
    return vector(first);
  } else {
    if constexpr (count == 4 || (count == 2 && kLanes<T> == 2))
      if (first >= n) return Vector<T>{};
    const Vector<T> low = sums_of_lanes<T, first, count / 2>(n, vector);
    return pair_sum<count / 2, T>(low, sums_of_lanes<T, first + count / 2, count / 2>(n, vector));
  }
}

// Within 2 units in the last place for x between log(smallest normal number) and kLargest; larger x count as kLargest.
template <class T>
[[gnu::always_inline]] inline Vector<T> exp(Vector<T> x) {
  using F = FloatFormat<T>;
  x = x > F::kLargest ? broadcast<T>(F::kLargest) : x;
  const Vector<T> shifted = multiply_add<T>(x, broadcast<T>(T(1.4426950408889634074)), broadcast<T>(F::kRound));
  const Vector<T> n = shifted - F::kRound;
  Vector<T> r = multiply_add<T>(n, broadcast<T>(-F::kLn2High), x);
  r = multiply_add<T>(n, broadcast<T>(-F::kLn2Low), r);
  // Taylor's series: |r| <= log(2) / 2.
  Vector<T> sum = broadcast<T>(T(1));
  for (int term = F::kExpTerms; term > 0; --term)
    sum = multiply_add<T>(sum * (T(1) / T(term)), r, broadcast<T>(T(1)));
  using Integers = Vector<Bits<T>>;
  return (Vector<T>)((Integers)sum + ((Integers)shifted << F::kMantissa));
}

// exp(x) for x <= 0: 0 where the result is below the smallest normal number, and for minus infinity; NaN for NaN.
template <class T>
[[gnu::always_inline]] inline Vector<T> exp_of_nonpositive(Vector<T> x) {
  constexpr T kLowest = sizeof(T) == 4 ? T(-87.33654) : T(-708.3964185322641);
  const auto vanishes = x < kLowest;
  const Vector<T> result = exp<T>(vanishes ? broadcast<T>(kLowest) : x);
  return vanishes ? Vector<T>{} : x != x ? x : result;
}

// Within 2 units in the last place for normal x > 0; NaN stays NaN. Other x give an arbitrary number.
template <class T>
[[gnu::always_inline]] inline Vector<T> log(Vector<T> x) {
  using F = FloatFormat<T>;
  using Integers = Vector<Bits<T>>;
  const Integers bits = (Integers)x, exponent = (bits - F::kRootHalf) >> F::kMantissa;
  const Vector<T> m = (Vector<T>)(bits - (exponent << F::kMantissa));  // from sqrt(1/2) to sqrt(2)
  const Vector<T> e = (Vector<T>)(exponent + (Integers)broadcast<T>(F::kRound)) - F::kRound;
  // log(m) = 2 atanh(s), s = (m - 1) / (m + 1)
  const Vector<T> f = m - T(1), s = f / (f + T(2)), z = s * s;
  Vector<T> sum = broadcast<T>(T(2) / T(2 * F::kLogTerms + 1));
  for (int term = F::kLogTerms - 1; term > 0; --term)
    sum = multiply_add<T>(sum, z, broadcast<T>(T(2) / T(2 * term + 1)));
  // 2 s = f - s f exactly, which keeps the leading term free of the division's rounding.
  const Vector<T> rest = multiply_add<T>(e, broadcast<T>(F::kLn2Low), s * (z * sum - f));
  return multiply_add<T>(e, broadcast<T>(F::kLn2High), f + rest) + (x - x);
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
