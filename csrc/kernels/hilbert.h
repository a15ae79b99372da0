// Rank of a grid cell along the Hilbert curve: cells with neighbouring ranks are neighbours in space.
//
// C. H. Hamilton and A. Rau-Chaplin, Compact Hilbert indices (2007), section 2: the curve's position inside a cell of one
// level follows from an entry corner and a direction; both together are a state, and two levels are one table look-up.
#pragma once

#include <array>
#include <cstdint>

#if defined(__BMI2__)
#include <immintrin.h>
#endif

namespace pcseg::PCSEG_ISA {
namespace {

template <int D>
class HilbertTable {
 public:
  static constexpr int kCorners = 1 << D, kStates = kCorners * D;

  constexpr HilbertTable() : one_{}, two_{} {
    for (int state = 0; state < kStates; ++state)
      for (int corner = 0; corner < kCorners; ++corner) one_[state][corner] = step(state, corner);
    for (int state = 0; state < kStates; ++state)
      for (int corners = 0; corners < kCorners * kCorners; ++corners) {
        const Step first = one_[state][corners / kCorners], second = one_[first.state][corners % kCorners];
        two_[state][corners] = {second.state, static_cast<uint8_t>(first.rank << D | second.rank)};
      }
  }

  // cell: D coordinates of `bits` bits each. The rank has bits * D bits.
  uint64_t rank(const uint32_t* cell, int bits) const {
    const uint64_t corners = interleave(cell, bits);
    uint64_t rank = 0;
    int state = 0, bit = bits;
    for (; bit >= 2; bit -= 2) {
      const Step next = two_[state][corners >> (bit - 2) * D & (kCorners * kCorners - 1)];
      rank = rank << (2 * D) | next.rank;
      state = next.state;
    }
    return bit == 0 ? rank : rank << D | one_[state][corners & (kCorners - 1)].rank;
  }

 private:
  struct Step {
    uint8_t state, rank;
  };

  // The corner on each level, D bits each, the coarsest level first.
  static uint64_t interleave(const uint32_t* cell, [[maybe_unused]] int bits) {
    uint64_t corners = 0;
#if defined(__BMI2__)
    static_assert(D == 2 || D == 3);
    constexpr uint64_t kEach = D == 2 ? 0x5555555555555555 : 0x1249249249249249;
    for (int d = 0; d < D; ++d) corners |= _pdep_u64(cell[d], kEach) << d;
#else
    for (int bit = 0; bit < bits; bit += 2)
      for (int d = 0; d < D; ++d) corners |= uint64_t{spread(cell[d] >> bit & 3)} << (bit * D + d);
#endif
    return corners;
  }
  static constexpr uint32_t spread(uint32_t two_bits) { return (two_bits | two_bits << (D - 1)) & (1 | 1 << D); }
  static constexpr int rotate_left(int x, int by) { return (x << by % D | x >> (D - by % D)) & (kCorners - 1); }
  static constexpr int gray(int i) { return i ^ i >> 1; }
  static constexpr int trailing_ones(int i) {
    int n = 0;
    for (; i & 1; i >>= 1) ++n;
    return n;
  }
  static constexpr Step step(int state, int corner) {
    const int entry = state / D, direction = state % D;
    const int turned = rotate_left(corner ^ entry, D - (direction + 1) % D);
    int rank = 0;
    while (gray(rank) != turned) ++rank;
    const int next_entry = rank == 0 ? 0 : gray((rank - 1) / 2 * 2);
    const int turn = rank == 0 ? 0 : trailing_ones(rank % 2 ? rank : rank - 1) % D;
    const int new_entry = entry ^ rotate_left(next_entry, direction + 1);
    return {static_cast<uint8_t>(new_entry * D + (direction + turn + 1) % D), static_cast<uint8_t>(rank)};
  }

  Step one_[kStates][kCorners];
  Step two_[kStates][kCorners * kCorners];
};

template <int D>
constexpr HilbertTable<D> kHilbert;

}  // namespace
}  // namespace pcseg::PCSEG_ISA
