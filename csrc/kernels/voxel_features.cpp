#include "voxel_features.h"

#include <cstring>
#include <memory>
#include <vector>

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t ahead = 32;   // points between a prefetch and its use
constexpr int64_t block = 256;  // voxels whose sums stay in cache
constexpr int64_t chunk = 512;  // points whose flags stay in cache

// Lanes values side by side; the compiler splits what the instruction set cannot hold.
template <class T, int Lanes>
struct Wide {
  typedef T type __attribute__((vector_size(Lanes * sizeof(T))));
};
template <class T, int Lanes>
using Vector = typename Wide<T, Lanes>::type;

// The rows of an array as vectors, of whose lanes the first `width` count. A row is read whole, lanes of the next rows
// included; the last rows, behind which the array ends, have a copy with room behind it. width <= Lanes, or values null.
template <class T, int Lanes>
class Rows {
 public:
  Rows(const T* values, int64_t rows, int64_t width) : values_(values), width_(width) {
    if (!values || width == 0) return;
    copied_ = std::max<int64_t>(0, rows - (Lanes + width - 1) / width);
    std::copy(values + copied_ * width, values + rows * width, tail_);
  }

  void load(int64_t row, Vector<T, Lanes>& x) const {
    const T* at = row < copied_ ? values_ + row * width_ : tail_ + (row - copied_) * width_;
    std::memcpy(&x, at, sizeof x);
  }
  void prefetch(int64_t row) const { __builtin_prefetch(values_ + row * width_); }

 private:
  const T* values_;
  int64_t width_, copied_ = 0;
  T tail_[3 * Lanes] = {};  // rows of fewer than Lanes + width values, and Lanes behind the last one's begin
};

// x where mask is -1, 0 where it is 0: a product would carry NaN and infinity over.
template <class V>
inline void keep(V& x, int64_t mask) {
  using Lane = std::remove_reference_t<decltype(x[0])>;
  using Bits = std::conditional_t<sizeof(Lane) == 8, int64_t, int32_t>;
  using Mask = Vector<Bits, sizeof(V) / sizeof(Lane)>;
  x = reinterpret_cast<V>(reinterpret_cast<Mask>(x) & (Mask{} + static_cast<Bits>(mask)));
}

// The most frequent label of a voxel whose labels differ. Low classes are counted in a table, any others sorted.
class Majority {
 public:
  int64_t of(const int64_t* labels, const int64_t* rows, int64_t count) {
    int64_t highest = -1;
    for (int64_t i = 0; i < count; ++i) highest = std::max(highest, labels[rows[i]]);
    if (highest >= table_size) return by_sorting(labels, rows, count);
    int64_t best = -1, most = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t label = labels[rows[i]];
      if (label < 0) continue;
      const int64_t votes = ++votes_[label];
      if (votes > most || (votes == most && label < best)) {
        most = votes;
        best = label;
      }
    }
    for (int64_t i = 0; i < count; ++i)
      if (labels[rows[i]] >= 0) votes_[labels[rows[i]]] = 0;
    return best;
  }

 private:
  static constexpr int64_t table_size = 256;
  int64_t votes_[table_size] = {};
  std::vector<int64_t> sorted_;

  int64_t by_sorting(const int64_t* labels, const int64_t* rows, int64_t count) {
    sorted_.resize(count);
    for (int64_t i = 0; i < count; ++i) sorted_[i] = labels[rows[i]];
    std::sort(sorted_.begin(), sorted_.end());
    int64_t best = -1, most = 0;
    for (int64_t i = 0, j; i < count; i = j) {
      for (j = i; j < count && sorted_[j] == sorted_[i];) ++j;
      if (sorted_[i] >= 0 && j - i > most) {
        most = j - i;
        best = sorted_[i];
      }
    }
    return best;
  }
};

// One pass over the points of up to `block` voxels. Voxels hold a few points each, so a loop over each voxel's points
// would mispredict its end almost every time: the sums run on, are cleared by a mask where a voxel begins, and are stored
// after every point. FeatLanes 0: no features here.
template <class C, class F, int CoordLanes, int FeatLanes>
struct Pass {
  using Coord = Vector<double, CoordLanes>;
  using Feat = Vector<F, FeatLanes ? FeatLanes : 4>;

  const VoxelFeatures<C, F>& a;
  Rows<C, CoordLanes> coords{a.coords, a.num_points, a.dims};
  Rows<F, FeatLanes ? FeatLanes : 4> feats{FeatLanes ? a.feats : nullptr, a.num_points, a.channels};
  Majority majority;
  Coord coord_sum[block];
  Feat feat_sum[block];
  int64_t label[block], differs[block];  // the voxel's first label; not 0 where another one follows
  int32_t begins[chunk];                 // voxels that begin at a point, those without points included

  VoxelFault run(int64_t begin, int64_t end) {
    const int64_t first = a.point_offsets[begin], last = a.point_offsets[end];
    const int64_t seen = std::min(last + ahead, a.num_points), highest = a.num_points - 1;
    int64_t outside = 0;  // negative if any row or its distance to the highest is
    for (int64_t i = first; i < seen; ++i) outside |= a.order[i] | (highest - a.order[i]);
    if (outside < 0) return VoxelFault::row;
    const int64_t lowest = a.labels ? sum<true>(begin, end, first, last) : sum<false>(begin, end, first, last);
    if (lowest < -1) return VoxelFault::label;
    finish(begin, end);
    return VoxelFault::none;
  }

  template <bool Labels>
  int64_t sum(int64_t begin, int64_t end, int64_t first, int64_t last) {
    Coord coord_acc{};
    Feat feat_acc{};
    int64_t first_label = -1, other = 0, lowest = 0, v = -1;
    const int64_t* const order = a.order;
    const int64_t* const labels = a.labels;
    const int64_t highest = a.num_points - 1;
    const Rows<C, CoordLanes> coords(this->coords);  // locals: a store of a sum could change members
    const auto feats = this->feats;
    for (int64_t from = first, opened = begin; from < last; from += chunk) {
      const int64_t to = std::min(last, from + chunk);
      std::fill_n(begins, chunk, 0);
      for (; opened < end && a.point_offsets[opened] < to; ++opened) ++begins[a.point_offsets[opened] - from];
      for (int64_t i = from; i < to; ++i) {
        const int64_t opens = begins[i - from], mask = opens ? 0 : -1;
        const int64_t row = order[i], later = order[std::min(i + ahead, highest)];
        v += opens;
        Vector<C, CoordLanes> x;
        coords.prefetch(later);
        coords.load(row, x);
        keep(coord_acc, mask);
        coord_acc += __builtin_convertvector(x, Coord);
        coord_sum[v] = coord_acc;
        if constexpr (FeatLanes > 0) {
          Feat f;
          feats.prefetch(later);
          feats.load(row, f);
          keep(feat_acc, mask);
          feat_acc += f;
          feat_sum[v] = feat_acc;
        }
        if constexpr (Labels) {
          __builtin_prefetch(labels + later);
          const int64_t now = labels[row];
          first_label = opens ? now : first_label;
          other = (other & mask) | (now ^ first_label);
          lowest = std::min(lowest, now);
          label[v] = first_label;
          differs[v] = other;
        }
      }
    }
    return lowest;
  }

  void finish(int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t points = a.point_offsets[v + 1] - a.point_offsets[v], b = v - begin, left = end - v;
      if (points == 0) [[unlikely]] {
        coord_sum[b] = Coord{};
        feat_sum[b] = Feat{};
      }
      const double count = static_cast<double>(std::max<int64_t>(points, 1));
      const Vector<C, CoordLanes> centre = __builtin_convertvector(coord_sum[b] / count, Vector<C, CoordLanes>);
      store(centre, a.out_coords + v * a.dims, a.dims, left);
      if constexpr (FeatLanes > 0) {
        const Feat mean = feat_sum[b] / static_cast<F>(count);
        store(mean, a.out_feats + v * a.channels, a.channels, left);
      }
      if (a.labels) {
        const int64_t* rows = a.order + a.point_offsets[v];
        a.out_labels[v] = points == 0 ? -1 : differs[b] == 0 ? label[b] : majority.of(a.labels, rows, points);
      }
    }
  }

  // Stores the first `width` lanes; whole where all lanes fit into this pass's rows that are still to come.
  template <class V, class T>
  static void store(const V& x, T* to, int64_t width, int64_t rows_left) {
    if (width * rows_left >= static_cast<int64_t>(sizeof x / sizeof(T))) {
      std::memcpy(to, &x, sizeof x);
    } else {
      for (int64_t c = 0; c < width; ++c) to[c] = x[c];
    }
  }
};

// Means of wide features: the loop over the channels is the long one.
template <class C, class F>
void wide_means(const VoxelFeatures<C, F>& a, int64_t begin, int64_t end) {
  const int64_t channels = a.channels;
  for (int64_t v = begin; v < end; ++v) {
    F* __restrict out = a.out_feats + v * channels;
    const int64_t first = a.point_offsets[v], last = a.point_offsets[v + 1];
    for (int64_t c = 0; c < channels; ++c) out[c] = 0;
    for (int64_t i = first; i < last; ++i) {
      const F* row = a.feats + a.order[i] * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] += row[c];
    }
    const F count = static_cast<F>(last > first ? last - first : 1);
    for (int64_t c = 0; c < channels; ++c) out[c] /= count;
  }
}

constexpr int64_t widest_lanes = 16;

template <int CoordLanes, int FeatLanes, class C, class F>
VoxelFault run_lanes(const VoxelFeatures<C, F>& a, const Parallel& parallel) {
  std::atomic<int> fault{0};
  parallel.ranges(a.num_voxels, 1024, [&](int64_t begin, int64_t end) {
    const auto pass = std::make_unique<Pass<C, F, CoordLanes, FeatLanes>>(a);
    for (int64_t v = begin; v < end; v += block) {
      const int64_t last = std::min(end, v + block);
      const VoxelFault found = pass->run(v, last);
      if (found != VoxelFault::none) fault = static_cast<int>(found);
      else if (a.feats && a.channels > widest_lanes) wide_means(a, v, last);
    }
  });
  return static_cast<VoxelFault>(fault.load());
}

template <int CoordLanes, class C, class F>
VoxelFault run_coords(const VoxelFeatures<C, F>& a, const Parallel& parallel) {
  if (!a.feats || a.channels == 0 || a.channels > widest_lanes) return run_lanes<CoordLanes, 0>(a, parallel);
  if (a.channels <= 4) return run_lanes<CoordLanes, 4>(a, parallel);
  if (a.channels <= 8) return run_lanes<CoordLanes, 8>(a, parallel);
  return run_lanes<CoordLanes, 16>(a, parallel);
}

template <class C, class F>
VoxelFault run(const VoxelFeatures<C, F>& a, const Parallel& parallel) {
  return a.dims <= 4 ? run_coords<4>(a, parallel) : run_coords<8>(a, parallel);
}

}  // namespace

VoxelFault voxel_features(const VoxelFeatures<float, float>& a, const Parallel& p) { return run(a, p); }
VoxelFault voxel_features(const VoxelFeatures<float, double>& a, const Parallel& p) { return run(a, p); }
VoxelFault voxel_features(const VoxelFeatures<double, float>& a, const Parallel& p) { return run(a, p); }
VoxelFault voxel_features(const VoxelFeatures<double, double>& a, const Parallel& p) { return run(a, p); }

}  // namespace pcseg::PCSEG_ISA
