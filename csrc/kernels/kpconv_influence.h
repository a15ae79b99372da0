// The influence of a kernel point on a neighbour, for host and device alike.
#pragma once

#include <cmath>

#include "host_device.h"

namespace pcseg {

// max(0, 1 - distance / sigma) of a squared distance; 0 for NaN.
template <class T>
PCSEG_HD inline T kpconv_influence(T sq_dist, T sigma) {
  if (!(sq_dist < sigma * sigma)) return T(0);
  const T influence = T(1) - std::sqrt(sq_dist) * (T(1) / sigma);
  return influence > T(0) ? influence : T(0);
}

// Its derivative by the position of the kernel point is this times (neighbour - kernel point); 0 at distance 0.
template <class T>
PCSEG_HD inline T kpconv_influence_slope(T sq_dist, T sigma) {
  return sq_dist > T(0) ? T(1) / (sigma * std::sqrt(sq_dist)) : T(0);
}

}  // namespace pcseg
