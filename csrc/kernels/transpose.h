// Four columns of sixteen rows, from rows that lie anywhere, and back.
#pragma once

#include <utility>

#include "simd.h"

namespace pcseg::PCSEG_ISA {
namespace {

namespace transpose_detail {

using R = F16::Register;
constexpr int kQuads = F16::kRegisterLanes / 4;  // of a register
using Order = std::make_index_sequence<F16::kRegisterLanes>;

// Row 4 h + group of the register's rows, in its quad h. By instructions of the processor: from plain shuffles gcc makes
// several where one inserts a quad from memory.
PCSEG_INLINE R load_rows(const float* table, const int32_t* offset, int group) {
  const auto at = [&](int h) { return table + offset[4 * h + group]; };
#if defined(__AVX512F__)
  __m512 rows = _mm512_castps128_ps512(_mm_loadu_ps(at(0)));
  rows = _mm512_insertf32x4(rows, _mm_loadu_ps(at(1)), 1);
  rows = _mm512_insertf32x4(rows, _mm_loadu_ps(at(2)), 2);
  return (R)_mm512_insertf32x4(rows, _mm_loadu_ps(at(3)), 3);
#elif defined(__AVX2__)
  return (R)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at(0))), _mm_loadu_ps(at(1)), 1);
#else
  R row;
  std::memcpy(&row, at(0), sizeof row);
  return row;
#endif
}

// In each quad: a[at], b[at], a[at + 1], b[at + 1].
template <int at, size_t... Lane>
PCSEG_INLINE R interleave(R a, R b, std::index_sequence<Lane...>) {
  constexpr int n = sizeof...(Lane);
  return __builtin_shufflevector(a, b, (int(Lane & ~size_t{3}) + at + int(Lane >> 1 & 1) + (Lane & 1 ? n : 0))...);
}
// In each quad: a[at], a[at + 1], b[at], b[at + 1].
template <int at, size_t... Lane>
PCSEG_INLINE R join(R a, R b, std::index_sequence<Lane...>) {
  constexpr int n = sizeof...(Lane);
  return __builtin_shufflevector(a, b, (int(Lane & ~size_t{3}) + at + int(Lane & 1) + (Lane & 2 ? n : 0))...);
}

// Element (j, i) of each quad of four registers becomes element (i, j).
PCSEG_INLINE void transpose_quads(R z[4]) {
  constexpr Order order;
  const R a = interleave<0>(z[0], z[1], order), b = interleave<2>(z[0], z[1], order);
  const R c = interleave<0>(z[2], z[3], order), d = interleave<2>(z[2], z[3], order);
  z[0] = join<0>(a, c, order);
  z[1] = join<2>(a, c, order);
  z[2] = join<0>(b, d, order);
  z[3] = join<2>(b, d, order);
}

}  // namespace transpose_detail

// Lane l of column c: table[offset[l] + c].
PCSEG_INLINE void gather_quads(const float* table, const int32_t* offset, F16 columns[4]) {
  using namespace transpose_detail;
  for (int r = 0; r < F16::kCount; ++r) {
    R z[4];
    for (int group = 0; group < 4; ++group) z[group] = load_rows(table, offset + r * F16::kRegisterLanes, group);
    transpose_quads(z);
    for (int c = 0; c < 4; ++c) columns[c].v[r] = z[c];
  }
}

// rows[l * stride + c]: lane l of column c.
PCSEG_INLINE void scatter_quads(const F16 columns[4], float* rows, int64_t stride) {
  using namespace transpose_detail;
  for (int r = 0; r < F16::kCount; ++r) {
    R z[4];
    for (int c = 0; c < 4; ++c) z[c] = columns[c].v[r];
    transpose_quads(z);
    for (int group = 0; group < 4; ++group)
      for (int h = 0; h < kQuads; ++h)
        std::memcpy(rows + (r * F16::kRegisterLanes + 4 * h + group) * stride,
                    reinterpret_cast<const char*>(&z[group]) + 16 * h, 16);
  }
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
