#include "voxel_features.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "aligned_array.h"
#include "team.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t ahead = 32;   // points between a prefetch and its use
constexpr int64_t chunk = 2048;  // points looked through at a time

// Lanes values side by side; the compiler splits what the instruction set cannot hold.
template <class T, int Lanes>
struct Wide {
  typedef T type __attribute__((vector_size(Lanes * sizeof(T))));
};
template <class T, int Lanes>
using Vector = typename Wide<T, Lanes>::type;

template <class T, int Lanes>
inline void add_to(Vector<double, Lanes>& sum, const Vector<T, Lanes>& x) {
#if defined(__AVX__)  // gcc takes the upper half through memory
  if constexpr (Lanes == 4 && sizeof(T) == sizeof(float))
    sum += reinterpret_cast<Vector<double, 4>>(_mm256_cvtps_pd(reinterpret_cast<__m128>(x)));
  else
#endif
    sum += __builtin_convertvector(x, Vector<double, Lanes>);
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

// What a voxel's points have added up to; one cache line for up to four coordinates and four float features.
template <class F, int CoordLanes>
struct alignas(64) Record {
  Vector<double, CoordLanes> coords;
  Vector<F, 4> feats;
  // Labels as record_label() gives them, 0: none yet. Two different ones are counted, and whether there are more noted.
  uint32_t label, second, second_votes, more;
};

// A label as a number > 0, the same one for all that are too large to tell apart.
constexpr uint32_t large_label = ~0u;
inline uint32_t record_label(int64_t label) {
  return static_cast<uint32_t>(std::min<uint64_t>(static_cast<uint64_t>(label) + 2, large_label));
}

// Which of the values[0 .. count) lie in [begin, end): writes their places, in order, and returns how many. Up to 8 more
// places are written.
inline int64_t places_in_range(const int64_t* values, int64_t count, int64_t begin, int64_t end, int32_t* places) {
  int64_t kept = 0, i = 0;
  const uint64_t range = static_cast<uint64_t>(end - begin);
#if defined(__AVX512F__) && defined(__AVX512VL__)
  const __m512i low = _mm512_set1_epi64(begin), width = _mm512_set1_epi64(static_cast<int64_t>(range));
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (; i + 8 <= count; i += 8) {
    const __mmask8 in = _mm512_cmplt_epu64_mask(_mm512_sub_epi64(_mm512_loadu_si512(values + i), low), width);
    const __m256i at = _mm256_add_epi32(lanes, _mm256_set1_epi32(static_cast<int>(i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(places + kept), _mm256_maskz_compress_epi32(in, at));
    kept += __builtin_popcount(in);
  }
#endif
  for (; i < count; ++i) {
    places[kept] = static_cast<int32_t>(i);
    kept += static_cast<uint64_t>(values[i] - begin) < range;
  }
  return kept;
}

enum class Feats { none, narrow, wide };  // narrow: up to four channels, in the record; wide: summed in the output

// Adds the points to their voxels' records. They are walked in their own order, so that they are read in sequence. Each
// part owns a range of voxels: every sum runs in the order of the points however many parts there are.
template <class C, class F, int CoordLanes, Feats feats_kind>
struct Adding {
  using Sums = Record<F, CoordLanes>;
  static constexpr int64_t padded = CoordLanes;  // rows: reading all lanes of a row stays within these many

  const VoxelFeatures<C, F>& a;
  Sums* const records;
  int64_t begin, end;
  int64_t points = 0, lowest = 0;  // points found in the range; the lowest label

  void run() {
    std::fill_n(reinterpret_cast<char*>(records + begin), (end - begin) * sizeof(Sums), 0);
    if (feats_kind == Feats::wide) std::fill(a.out_feats + begin * a.channels, a.out_feats + end * a.channels, F(0));
    const int64_t last = std::max<int64_t>(0, a.num_points - padded), channels = a.feats ? a.channels : 0;
    for (int64_t first = 0; first < last; first += chunk)
      add(first, std::min(chunk, last - first), a.coords + first * a.dims, a.feats + first * channels);
    // Rows are read with all lanes: the last ones from copies with room behind them.
    C coords[padded * CoordLanes + CoordLanes] = {};
    std::copy(a.coords + last * a.dims, a.coords + a.num_points * a.dims, coords);
    std::vector<F> feats(padded * channels + 4);
    std::copy(a.feats + last * channels, a.feats + a.num_points * channels, feats.begin());
    add(last, a.num_points - last, coords, feats.data());
  }

  // Adds the points of the range among `rows` ones from `first` on; coords and feats are those of the first.
  void add(int64_t first, int64_t rows, const C* coords, const F* feats) {
    int32_t own[chunk + ahead];
    const int64_t count = places_in_range(a.voxel_of_point + first, rows, begin, end, own);
    std::fill_n(own + count, ahead, 0);
    points += count;
    a.labels ? add_own<true>(first, own, count, coords, feats) : add_own<false>(first, own, count, coords, feats);
  }

  template <bool Labels>
  void add_own(int64_t first, const int32_t* own, int64_t count, const C* coords, const F* feats) {
    const int64_t* const voxels = a.voxel_of_point + first;
    const int64_t* const labels = a.labels + (Labels ? first : 0);
    const int64_t dims = a.dims, channels = a.channels;
    Sums* const records = this->records;
    int64_t lowest = this->lowest;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t row = own[j], v = voxels[row];
      __builtin_prefetch(records + voxels[own[j + ahead]], 1);
      Sums& to = records[v];
      Vector<C, CoordLanes> x;
      std::memcpy(&x, coords + row * dims, sizeof x);
      add_to<C, CoordLanes>(to.coords, x);
      if constexpr (feats_kind == Feats::narrow) {
        Vector<F, 4> f;
        std::memcpy(&f, feats + row * channels, sizeof f);
        to.feats += f;
      }
      if constexpr (feats_kind == Feats::wide) {
        F* __restrict sum = a.out_feats + v * channels;
        for (int64_t c = 0; c < channels; ++c) sum[c] += feats[row * channels + c];
      }
      if constexpr (Labels) {
        lowest = std::min(lowest, labels[row]);
        const uint32_t now = record_label(labels[row]), before = to.label;
        const uint32_t label = before | (now & -static_cast<uint32_t>(before == 0));  // no branch
        to.label = label;
        if (now != label) [[unlikely]] {
          if (to.second_votes == 0) to.second = now;
          if (to.second == now) ++to.second_votes;
          else to.more = 1;
        }
      }
    }
    this->lowest = lowest;
  }
};

// Turns records into what is asked for.
template <class C, class F, int CoordLanes, Feats feats_kind>
struct Finishing {
  using Sums = Record<F, CoordLanes>;

  const VoxelFeatures<C, F>& a;
  const Sums* const records;
  bool rows_exist = true;
  Majority majority;

  void run(int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t points = a.point_offsets[v + 1] - a.point_offsets[v], left = end - v;
      const Sums& sums = records[v];
      const double count = static_cast<double>(std::max<int64_t>(points, 1));
      const Vector<C, CoordLanes> centre = __builtin_convertvector(sums.coords / count, Vector<C, CoordLanes>);
      store(centre, a.out_coords + v * a.dims, a.dims, left);
      if constexpr (feats_kind == Feats::narrow) {
        const Vector<F, 4> mean = sums.feats / static_cast<F>(count);
        store(mean, a.out_feats + v * a.channels, a.channels, left);
      }
      if constexpr (feats_kind == Feats::wide)
        for (int64_t i = v * a.channels; i < (v + 1) * a.channels; ++i) a.out_feats[i] /= static_cast<F>(count);
      if (a.labels) a.out_labels[v] = label(sums, v, points);
    }
  }

  int64_t label(const Sums& sums, int64_t v, int64_t points) {
    if (sums.more || std::max(sums.label, sums.second) == large_label) return by_walking(v);
    const int64_t first = int64_t{sums.label} - 2, second = int64_t{sums.second} - 2;
    const int64_t lead = points - 2 * int64_t{sums.second_votes};
    const bool less = (first < 0) | (lead < 0) | ((lead == 0) & (second < first));  // no branch: voxels differ
    return std::max<int64_t>((second >= 0) & less ? second : first, -1);
  }

  int64_t by_walking(int64_t v) {
    const int64_t* const rows = a.order + a.point_offsets[v];
    const int64_t count = a.point_offsets[v + 1] - a.point_offsets[v];
    for (int64_t i = 0; i < count; ++i) rows_exist &= 0 <= rows[i] && rows[i] < a.num_points;
    return rows_exist ? majority.of(a.labels, rows, count) : -1;
  }

  // Stores the first `width` lanes; whole where all lanes fit into the rows of this run that are still to come.
  template <class V, class T>
  static void store(const V& x, T* to, int64_t width, int64_t rows_left) {
    if (width * rows_left >= static_cast<int64_t>(sizeof x / sizeof(T))) {
      std::memcpy(to, &x, sizeof x);
    } else {
      for (int64_t c = 0; c < width; ++c) to[c] = x[c];
    }
  }
};

template <int CoordLanes, Feats feats, class C, class F>
VoxelFault run_records(const VoxelFeatures<C, F>& a, const Parallel& parallel) {
  constexpr int64_t block = 2048;  // voxels to finish at a time: whoever came late to the adding does fewer
  AlignedArray<Record<F, CoordLanes>> records(a.num_voxels);
  std::atomic<int64_t> points{0};
  std::atomic<bool> rows_exist{true}, labels_fit{true};
  const int64_t parts = std::clamp<int64_t>(a.num_points / 8192, 1, parallel.threads());
  const auto bound = [&](int64_t part) {  // as many points for each part; the voxels without points at the ends to some
    if (part == 0 || part == parts) return part == 0 ? 0 : a.num_voxels;
    return std::lower_bound(a.point_offsets, a.point_offsets + a.num_voxels, a.num_points * part / parts) -
           a.point_offsets;
  };
  Team::run(parallel, parts, [&](Team& team) {
    team.tasks(parts, [&](int64_t part, int) {
      Adding<C, F, CoordLanes, feats> adding{a, records.data(), bound(part), bound(part + 1)};
      adding.run();
      points += adding.points;
      if (adding.lowest < -1) labels_fit = false;
    });
    if (points != a.num_points || !labels_fit) return;
    std::vector<std::unique_ptr<Finishing<C, F, CoordLanes, feats>>> finishing(team.threads());
    team.tasks((a.num_voxels + block - 1) / block, [&](int64_t task, int worker) {
      auto& mine = finishing[worker];
      if (!mine) mine = std::make_unique<Finishing<C, F, CoordLanes, feats>>(a, records.data());
      mine->run(task * block, std::min(a.num_voxels, (task + 1) * block));
      if (!mine->rows_exist) rows_exist = false;
    });
  });
  if (points != a.num_points) return VoxelFault::voxel;
  if (!rows_exist) return VoxelFault::row;
  return labels_fit ? VoxelFault::none : VoxelFault::label;
}

template <int CoordLanes, class C, class F>
VoxelFault run_coords(const VoxelFeatures<C, F>& a, const Parallel& parallel) {
  if (!a.feats || a.channels == 0) return run_records<CoordLanes, Feats::none>(a, parallel);
  return a.channels <= 4 ? run_records<CoordLanes, Feats::narrow>(a, parallel)
                         : run_records<CoordLanes, Feats::wide>(a, parallel);
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
