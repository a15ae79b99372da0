// The arithmetic of regular cells, for host and device alike: a point must fall into the same cell everywhere.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace pcseg {

// floor(coord / cell_size) of a quotient whose floor fits into int32. True division by the caller: multiplying by the
// inverse moves points on boundaries.
template <class T>
PCSEG_HD inline int32_t cell_of(T quotient) {
  const int32_t cell = static_cast<int32_t>(quotient);
  return cell - static_cast<int32_t>(static_cast<T>(cell) > quotient);
}

// Whether cell_of holds for it; false for NaN.
template <class T>
PCSEG_HD inline bool cell_fits(T quotient) {
  return quotient >= T(-2147483648.0) && quotient < T(2147483648.0);
}

}  // namespace pcseg
