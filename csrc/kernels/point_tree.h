// The spatial index of the searches on a GPU: points along a Hilbert curve, 32 to a leaf, under boxes of fan-out 32.
//
// It adapts to any density, its memory is linear whatever the extent, every size follows from the number of points
// (so nothing waits for the GPU), and a warp tests 32 boxes or 32 points at a time. Counted on a CPU, leaves that a
// query for its 16 nearest touches (synthetic room, spinning scan, airborne scan): Morton order 15, 16, 18; Hilbert
// order 7, 11, 11; Hilbert order with the query's own leaf first 4, 6, 6.
#pragma once

#include <cstddef>
#include <cstdint>

#include "host_device.h"

namespace pcseg::cuda {

constexpr int kFanOut = 32;
constexpr int kLogFanOut = 5;
constexpr int kMaxLevels = 6;  // 32^6 leaves' worth of top nodes is beyond 2^31 points
constexpr int kMaxDim = 8;

// Where a cell of the curve's grid lies; decided on the device from the finite coordinates.
template <class T>
struct CurveFrame {
  T low[kMaxDim];
  T scale;  // cells per unit of length
  int bits;  // per axis
  int dim;
};

template <class T>
PCSEG_HD inline uint32_t curve_cell(T coord, T low, T scale, int bits) {
  const T cell = (coord - low) * scale, last = static_cast<T>((uint32_t{1} << bits) - 1);
  if (!(cell > 0)) return 0;  // NaN too: such a point is nobody's neighbour, any place will do
  return static_cast<uint32_t>(cell < last ? cell : last);
}

// Rank of a cell along the Hilbert curve through a grid of 2^bits cells an axis: bits * dim bits.
// J. Skilling, Programming the Hilbert curve, AIP Conf. Proc. 707 (2004).
PCSEG_HD inline uint64_t curve_rank(const uint32_t* cell, int dim, int bits) {
  uint32_t axis[kMaxDim] = {};
  for (int d = 0; d < dim; ++d) axis[d] = cell[d];
  for (uint32_t bit = uint32_t{1} << (bits - 1); bit > 1; bit >>= 1) {
    const uint32_t below = bit - 1;
    for (int d = 0; d < dim; ++d) {  // undo the turn (exchange with axis 0) or the reflection of this level
      if (axis[d] & bit) {
        axis[0] ^= below;
      } else {
        const uint32_t exchanged = (axis[0] ^ axis[d]) & below;
        axis[0] ^= exchanged;
        axis[d] ^= exchanged;
      }
    }
  }
  for (int d = 1; d < dim; ++d) axis[d] ^= axis[d - 1];  // Gray code
  uint32_t flip = 0;
  for (uint32_t bit = uint32_t{1} << (bits - 1); bit > 1; bit >>= 1)
    if (axis[dim - 1] & bit) flip ^= bit - 1;
  uint64_t rank = 0;
  for (int b = bits - 1; b >= 0; --b)
    for (int d = 0; d < dim; ++d) rank = rank << 1 | ((axis[d] ^ flip) >> b & 1);
  return rank;
}

template <class T>
PCSEG_HD inline uint64_t curve_key(const T* point, int64_t cloud, const CurveFrame<T>& frame) {
  uint32_t cell[kMaxDim] = {};
  for (int d = 0; d < frame.dim; ++d) cell[d] = curve_cell(point[d], frame.low[d], frame.scale, frame.bits);
  return static_cast<uint64_t>(cloud) << (frame.bits * frame.dim) | curve_rank(cell, frame.dim, frame.bits);
}

// Bits that hold 0 .. count - 1.
PCSEG_HD inline int bits_for(uint64_t count) {
  int bits = 0;
  while (bits < 64 && count > uint64_t{1} << bits) ++bits;
  return bits;
}

// Bits per axis: 20, fewer where clouds need them.
PCSEG_HD inline int curve_bits(int64_t num_clouds, int dim) {
  const int left = (64 - bits_for(static_cast<uint64_t>(num_clouds))) / dim;
  return left < 20 ? left : 20;
}

// How many nodes each level has, from the leaves (level 0) up to the first that a warp tests at once.
struct TreeLevels {
  int num_levels;
  int count[kMaxLevels];
  int first[kMaxLevels];  // of a level's nodes in the arrays that hold all levels
  int num_nodes;
};

inline TreeLevels tree_levels(int64_t num_points) {
  TreeLevels levels{};
  int64_t count = num_points;
  do {
    count = (count + kFanOut - 1) / kFanOut;
    levels.first[levels.num_levels] = levels.num_nodes;
    levels.count[levels.num_levels++] = static_cast<int>(count);
    levels.num_nodes += static_cast<int>(count);
  } while (count > kFanOut);
  return levels;
}

// Pointers into device memory. A point has Axes coordinates; those beyond `dim` are 0 and change no distance.
template <class T, int Axes>
struct PointTree {
  const T* coords[Axes];       // (leaves * 32), in curve order, clouds one after the other
  const int32_t* row;          // (leaves * 32) each point's row in the input
  const uint64_t* key;         // (num_points)
  const T* low[Axes];          // (num_nodes) each node's box
  const T* high[Axes];
  const int32_t* lowest_row;   // (num_nodes) the smallest row below a node
  const CurveFrame<T>* frame;
  TreeLevels levels;
  int num_points;
};

// Squared distance with one rounding an operation and in this order on every device: ties fall alike everywhere.
template <int Axes, class T>
PCSEG_HD inline T squared_norm(const T (&x)[Axes]) {
  T sum = x[0] * x[0];
  for (int d = 1; d < Axes; ++d) sum += x[d] * x[d];
  return sum;
}

// Distance from a coordinate to an interval. Rounding keeps order, so the squared distance to a box computed from it is
// never above that to a point inside.
template <class T>
PCSEG_HD inline T outside(T coord, T low, T high) {
  const T below = low - coord, above = coord - high;
  const T more = below > above ? below : above;
  return more > 0 ? more : T(0);
}

// A neighbour, or the best that a box could hold: nearer first, then the lower row.
template <class T>
struct Candidate {
  T sq_dist;
  int32_t row;
};

template <class T>
PCSEG_HD inline bool operator<(const Candidate<T>& a, const Candidate<T>& b) {
  return a.sq_dist < b.sq_dist || (a.sq_dist == b.sq_dist && a.row < b.row);
}

// num_points below 2^31 - 32; Axes 3 or kMaxDim, at least the points' dimensions. A tree lies in one piece of memory that
// the caller may keep; to build it takes more, which is free once the stream is done.
template <class T, int Axes>
size_t point_tree_bytes(int64_t num_points);
template <class T, int Axes>
PointTree<T, Axes> point_tree_at(const void* memory, int64_t num_points);

// coords (num_points, dim) row-major; offsets (num_clouds + 1) from 0 to num_points, ascending, else a device-side
// assertion fails.
template <class T, int Axes>
size_t point_tree_workspace_bytes(int64_t num_points, int64_t num_clouds, int dim);
template <class T, int Axes>
PointTree<T, Axes> build_point_tree(const T* coords, const int64_t* offsets, int64_t num_points, int64_t num_clouds,
                                    int dim, void* memory, void* workspace, void* stream);

}  // namespace pcseg::cuda
