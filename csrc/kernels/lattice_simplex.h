// Where a point lies in the permutohedral lattice, and the keys of lattice points: what CPU and GPU compute alike.
//
// The lattice A*_D spans the plane sum(c) = 0 of D + 1 dimensions. All coordinates of a lattice point are congruent
// modulo D + 1; their common remainder k in 0..D is its colour. A simplex has one vertex of each colour. A lattice point
// is stored as (q_0 .. q_{D-1}, k) with c_i = (D + 1) q_i + k; the last coordinate follows from the sum.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace pcseg {

constexpr int min_lattice_dims = 2, max_lattice_dims = 8;
// Positions beyond are refused: cells stay within int32, and a key within wide_key_words.
constexpr double max_lattice_position = 1e7;
constexpr int wide_key_words = 5;

template <int W>
struct LatticeKey {
  uint64_t word[W];
  PCSEG_HD bool operator==(const LatticeKey& other) const {
    bool equal = true;
    for (int w = 0; w < W; ++w) equal &= word[w] == other.word[w];
    return equal;
  }
  PCSEG_HD uint64_t hash() const {
    uint64_t h = 0;
    for (int w = 0; w < W; ++w) h = (h ^ (h >> 32) ^ word[w]) * 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 32);
  }
};

// How positions become lattice coordinates, and these a key: the colour in the lowest bits of word 0, then the axes and
// the cloud, each in a field of its own that no addition below overflows.
struct LatticePlan {
  double scale[max_lattice_dims];
  double weight_scale;
  int64_t low[max_lattice_dims];
  int word[max_lattice_dims], shift[max_lattice_dims];
  int cloud_word, cloud_shift;
  int words;
};

// The kernel that splat, blur and slice amount to, on average over the lattice's place, has the covariance sum
// v v^T (1/2 + 1/6) over the D + 1 lattice directions v: (D + 1)^2 * 2/3 along each axis. (1/2 from the blur [1 2 1] / 4,
// 1/12 each from splat and slice.) `scale` makes that the unit matrix; it includes a division by D + 1, so that cells
// have edge 1. `weight_scale` squared makes the integral (2 pi)^(D/2), as the Gaussian's: there are
// (2/3)^(D/2) sqrt(D + 1) lattice points to a unit of volume. Its factor 2^-(D+1) lets the blur be [1/2 1 1/2].
inline LatticePlan plan_lattice(int dims, const double* low, const double* high, int64_t num_clouds) {
  LatticePlan plan{};
  for (int d = 0; d < dims; ++d) plan.scale[d] = std::sqrt(2.0 / 3.0 / ((d + 1.0) * (d + 2.0)));
  const double pi = 3.14159265358979323846;
  plan.weight_scale = std::sqrt(std::pow(4 * pi / 3, dims / 2.0) * std::sqrt(dims + 1.0) / std::pow(2.0, dims + 1));

  const auto bits_of = [](uint64_t count) {  // that hold 0 .. count - 1
    int bits = 0;
    while (count > 1 && (count - 1) >> bits) ++bits;
    return bits;
  };
  int used = bits_of(static_cast<uint64_t>(dims) + 1);
  const auto take = [&](int bits, int& word, int& shift) {
    if (used + bits > 64) {
      ++plan.words;
      used = 0;
    }
    word = plan.words;
    shift = used < 64 ? used : 63;  // a field of no bits at the top
    used += bits;
  };
  for (int j = 0; j < dims; ++j) {
    double least = 0, most = 0;
    for (int d = j > 0 ? j - 1 : 0; d < dims; ++d) {
      const double factor = plan.scale[d] * (d == j - 1 ? -j : 1), a = factor * low[d], b = factor * high[d];
      least += a < b ? a : b;
      most += a < b ? b : a;
    }
    // Vertices lie within 2 of a point's own cell, their neighbours within 3.
    plan.low[j] = static_cast<int64_t>(std::floor(least)) - 4;
    const int64_t top = static_cast<int64_t>(std::ceil(most)) + 4;
    take(bits_of(static_cast<uint64_t>(top - plan.low[j]) + 1), plan.word[j], plan.shift[j]);
  }
  take(bits_of(static_cast<uint64_t>(num_clouds)), plan.cloud_word, plan.cloud_shift);
  ++plan.words;
  return plan;
}

// The simplex that holds x: cell[i] = the q_i of its vertex of colour 0, rank[i] = how many axes lie further from their
// cell, and weight[k] = the barycentric coordinate of the vertex of colour k, all as numbers. V is double, or a vector.
template <int D, class V>
PCSEG_HD inline void enclosing_simplex(const V (&x)[D], const double* scale, V (&cell)[D + 1], V (&rank)[D + 1],
                                       V (&weight)[D + 1]) {
  const V zero = V{}, one = zero + 1.0, size = zero + (D + 1.0), last = zero + double{D};
  V u[D + 1], sum = zero;
  for (int j = D; j > 0; --j) {
    const V part = x[j - 1] * scale[j - 1];
    u[j] = sum - part * double(j);
    sum = sum + part;
  }
  u[0] = sum;
  const V magic = zero + 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to the nearest integer
  V total = zero, off[D + 1];
  for (int i = 0; i <= D; ++i) {
    cell[i] = (u[i] + magic) - magic;
    total = total + cell[i];
    off[i] = u[i] - cell[i];
    rank[i] = zero;
  }
  for (int i = 0; i < D; ++i)
    for (int j = i + 1; j <= D; ++j) {
      const V below = off[i] < off[j] ? one : zero;
      rank[i] = rank[i] + below;
      rank[j] = rank[j] + (one - below);
    }
  // Cells must sum to 0: step those back, or on, that are furthest from their axis.
  V sorted[D + 1];
  for (int r = 0; r <= D; ++r) sorted[r] = zero;
  for (int i = 0; i <= D; ++i) {
    const V moved = rank[i] + total;
    const V step = moved < zero ? one : (moved > last ? zero - one : zero);
    rank[i] = moved + step * size;
    cell[i] = cell[i] + step;
    off[i] = off[i] - step;
    for (int r = 0; r <= D; ++r) sorted[r] = sorted[r] + (rank[i] == zero + double(r) ? off[i] : zero);
  }
  weight[0] = one + sorted[D] - sorted[0];
  for (int k = 1; k <= D; ++k) weight[k] = sorted[D - k] - sorted[D + 1 - k];
}

// The keys of a point's simplex: vertex 0, then each vertex from the one before it.
template <int W>
PCSEG_HD inline LatticeKey<W> first_vertex(const LatticePlan& plan, int dims, const int64_t* cell, int64_t cloud) {
  LatticeKey<W> key{};
  for (int d = 0; d < dims; ++d)
    key.word[W == 1 ? 0 : plan.word[d]] += static_cast<uint64_t>(cell[d] - plan.low[d]) << plan.shift[d];
  key.word[W == 1 ? 0 : plan.cloud_word] += static_cast<uint64_t>(cloud) << plan.cloud_shift;
  return key;
}

// axis: the one whose rank is D + 1 - k where k is the colour that the key moves to.
template <int W>
PCSEG_HD inline void step_colour(const LatticePlan& plan, int dims, int axis, LatticeKey<W>& key) {
  ++key.word[0];
  if (axis < dims) key.word[W == 1 ? 0 : plan.word[axis]] -= uint64_t{1} << plan.shift[axis];
}

// The next lattice point along direction `axis`, 0 .. dims: c_i + 1 for all i but the axis itself, whose is c - D.
template <int W>
PCSEG_HD inline LatticeKey<W> next_along(const LatticePlan& plan, int dims, int axis, LatticeKey<W> key) {
  const uint64_t mask = dims < 4 ? 3 : dims < 8 ? 7 : 15;  // of the colour's bits
  if ((key.word[0] & mask) < static_cast<uint64_t>(dims)) {
    step_colour(plan, dims, axis, key);
  } else {
    key.word[0] -= static_cast<uint64_t>(dims);
    for (int d = 0; d < dims; ++d)
      if (d != axis) key.word[W == 1 ? 0 : plan.word[d]] += uint64_t{1} << plan.shift[d];
  }
  return key;
}

}  // namespace pcseg
