#include "grid_subsample.h"

#include <array>
#include <atomic>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>

#include "aligned_array.h"
#include "cell.h"
#include "dense_rank.h"

namespace pcseg::PCSEG_ISA {
namespace {

// f(cloud, begin, end) for the parts of the clouds that make up the points [begin, end).
template <class F>
void for_clouds(const int64_t* offsets, int64_t num_clouds, int64_t begin, int64_t end, F&& f) {
  int64_t cloud = std::upper_bound(offsets, offsets + num_clouds + 1, begin) - offsets - 1;
  while (begin < end) {
    while (offsets[cloud + 1] <= begin) ++cloud;
    const int64_t last = std::min(end, offsets[cloud + 1]);
    f(cloud, begin, last);
    begin = last;
  }
}

template <class T>
struct Box {
  std::array<T, max_grid_dims> low, high;
  Box() {
    low.fill(std::numeric_limits<T>::infinity());
    high.fill(-std::numeric_limits<T>::infinity());
  }
};

// Grows the box by whole rows; returns whether all their coordinates are finite. Dims rows of 16 lanes each make the
// loop contiguous: lane j of a block belongs to axis j % Dims.
template <int Dims, class T>
bool grow(Box<T>& box, const T* coords, int64_t rows) {
  constexpr int lanes = 16 * Dims;
  T low[lanes], high[lanes], zero[lanes];
  for (int j = 0; j < lanes; ++j) {
    low[j] = box.low[j % Dims];
    high[j] = box.high[j % Dims];
    zero[j] = 0;
  }
  const auto take = [&](int j, T x) {
    low[j] = x < low[j] ? x : low[j];
    high[j] = x > high[j] ? x : high[j];
    zero[j] += x * T(0);  // NaN from then on where x is not finite
  };
  const T* const last = coords + rows * Dims;
  for (; coords + lanes <= last; coords += lanes)
    for (int j = 0; j < lanes; ++j) take(j, coords[j]);
  for (int j = 0; coords + j < last; ++j) take(j, coords[j]);
  bool finite = true;
  for (int j = 0; j < lanes; ++j) {
    box.low[j % Dims] = std::min(box.low[j % Dims], low[j]);
    box.high[j % Dims] = std::max(box.high[j % Dims], high[j]);
    finite &= zero[j] == T(0);
  }
  return finite;
}

// Calls f with the number of dimensions as a constant.
template <class F>
auto with_dims(int dims, F&& f) {
  switch (dims) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    case 6: return f(std::integral_constant<int, 6>{});
    case 7: return f(std::integral_constant<int, 7>{});
    default: return f(std::integral_constant<int, 8>{});
  }
}

// The cells of a cloud's bounding box.
struct CellBox {
  std::array<int64_t, max_grid_dims> origin;
  std::array<uint64_t, max_grid_dims> extent;
  uint64_t before;  // cells of all earlier clouds, over the axes of the first stage
};

template <class T>
bool find_boxes(const GridVoxels<T>& a, Team& team, std::vector<CellBox>& cells) {
  constexpr int64_t chunk = 16384;
  std::vector<Box<T>> boxes(a.num_clouds);
  std::mutex mutex;
  std::atomic<bool> finite{true};
  team.tasks((a.num_points + chunk - 1) / chunk, [&](int64_t task, int) {
    const int64_t begin = task * chunk, end = std::min(a.num_points, begin + chunk);
    for_clouds(a.offsets, a.num_clouds, begin, end, [&](int64_t cloud, int64_t first, int64_t last) {
      Box<T> box;
      const T* rows = a.coords + first * a.dims;
      if (!with_dims(a.dims, [&](auto dims) { return grow<dims>(box, rows, last - first); })) finite = false;
      if (first == a.offsets[cloud] && last == a.offsets[cloud + 1]) {
        boxes[cloud] = box;
        return;
      }
      const std::lock_guard lock(mutex);
      for (int d = 0; d < a.dims; ++d) {
        boxes[cloud].low[d] = std::min(boxes[cloud].low[d], box.low[d]);
        boxes[cloud].high[d] = std::max(boxes[cloud].high[d], box.high[d]);
      }
    });
  });
  if (!finite) return false;
  for (int64_t cloud = 0; cloud < a.num_clouds; ++cloud) {
    cells[cloud] = {};
    if (a.offsets[cloud] == a.offsets[cloud + 1]) continue;
    for (int d = 0; d < a.dims; ++d) {
      const T low = boxes[cloud].low[d] / a.voxel_size, high = boxes[cloud].high[d] / a.voxel_size;
      if (!cell_fits(low) || !cell_fits(high)) return false;
      cells[cloud].origin[d] = cell_of(low);
      cells[cloud].extent[d] = static_cast<uint64_t>(int64_t{cell_of(high)} - cell_of(low)) + 1;
    }
  }
  return true;
}

template <class T>
int64_t first_bad_row(const GridVoxels<T>& a) {
  int64_t at = 0;
  while (cell_fits(a.coords[at] / a.voxel_size)) ++at;
  return at / a.dims;
}

// The axes [first, last) of a stage as one number: key * scale + sum of (cell - origin) * stride, all modulo 2^64, where
// key is the rank of the earlier stages.
struct Linear {
  std::array<uint64_t, max_grid_dims> stride;
  uint64_t constant;
  uint64_t scale;
};

Linear linear(const CellBox& box, const std::array<uint64_t, max_grid_dims>& extent, int first, int last) {
  Linear l{{}, 0, 1};
  for (int d = last - 1; d >= first; --d) {
    l.stride[d] = l.scale;
    l.constant -= static_cast<uint64_t>(box.origin[d]) * l.scale;
    l.scale *= extent[d];
  }
  return l;
}

template <class T, int Dims>
void fill_keys(const GridVoxels<T>& a, const Linear& l, bool ranked, int64_t first, int64_t last) {
  constexpr int64_t block = 256;
  int32_t cell[block * Dims];
  for (; first < last; first += block) {
    const int64_t rows = std::min(block, last - first);
    const T* coords = a.coords + first * Dims;
    for (int64_t j = 0; j < rows * Dims; ++j) cell[j] = cell_of(coords[j] / a.voxel_size);
    int64_t* keys = a.voxel_of_point + first;
    for (int64_t i = 0; i < rows; ++i) {
      uint64_t key = l.constant + (ranked ? static_cast<uint64_t>(keys[i]) * l.scale : 0);
      for (int d = 0; d < Dims; ++d)
        key += static_cast<uint64_t>(int64_t{cell[i * Dims + d]}) * l.stride[d];
      keys[i] = static_cast<int64_t>(key);
    }
  }
}

// Fills voxel_of_point and counts the points of the voxels; returns whether all cells fit.
template <class T>
bool find_voxels(const GridVoxels<T>& a, Team& team, RankCounts& counted) {
  std::vector<CellBox> cells(a.num_clouds);
  if (!find_boxes(a, team, cells)) return false;

  constexpr uint64_t limit = 1ull << 63;
  std::array<uint64_t, max_grid_dims> widest{};
  for (const CellBox& box : cells)
    for (int d = 0; d < a.dims; ++d) widest[d] = std::max(widest[d], box.extent[d]);

  // First stage: the clouds' boxes one after the other, over as many axes as 63 bits hold (for any sensible scan: all).
  int last = 0;
  uint64_t bound = 0;
  for (int axes = 1; axes <= a.dims; ++axes) {
    uint64_t sum = 0;
    for (const CellBox& box : cells) {
      uint64_t volume = box.extent[0];
      for (int d = 1; d < axes; ++d)
        if (__builtin_mul_overflow(volume, box.extent[d], &volume)) volume = limit;
      if (volume >= limit - sum) sum = limit;
      if (sum == limit) break;
      sum += volume;
    }
    if (sum == limit) break;
    last = axes;
    bound = sum;
  }
  uint64_t before = 0;
  for (CellBox& box : cells) {
    box.before = before;
    uint64_t volume = 1;
    for (int d = 0; d < last; ++d) volume *= box.extent[d];
    before += volume;
  }

  for (int first = 0;;) {
    const auto fill = [&](int64_t begin, int64_t end) {
      for_clouds(a.offsets, a.num_clouds, begin, end, [&](int64_t cloud, int64_t from, int64_t to) {
        Linear l = linear(cells[cloud], first == 0 ? cells[cloud].extent : widest, first, last);
        if (first == 0) l.constant += cells[cloud].before;
        with_dims(a.dims, [&](auto dims) { fill_keys<T, dims>(a, l, first > 0, from, to); });
      });
    };
    dense_rank(a.voxel_of_point, a.num_points, bound, team, fill, counted);
    if (last == a.dims) return true;
    // Further stages refine the ranks by the axes that are left: at most 2^31 ranks by at least one axis of 2^32 cells.
    first = last;
    for (bound = static_cast<uint64_t>(counted.ranks); last < a.dims && bound <= (limit - 1) / widest[last]; ++last)
      bound *= widest[last];
  }
}

// The rest of a counting sort by voxel. Parts of the points have counted alone and write alone.
void sort_points(const GridOrder& a, Team& team, RankCounts& counted) {
  constexpr int64_t ahead = 32;
  const int64_t n = a.num_points, voxels = a.num_voxels, parts = counted.parts;
  const int64_t blocks = std::clamp<int64_t>(voxels / 16384, 1, parts);
  const auto for_blocks = [&](auto&& f) {
    team.tasks(blocks, [&](int64_t block, int) { f(block, voxels * block / blocks, voxels * (block + 1) / blocks); });
  };
  std::vector<int32_t> before(blocks, 0);  // points in the voxels of earlier blocks
  if (blocks > 1)
    for_blocks([&](int64_t block, int64_t begin, int64_t end) {
      for (int64_t part = 0; part < parts; ++part) {
        const int32_t* const count = counted.of(part);
        before[block] = std::accumulate(count + begin, count + end, before[block]);
      }
    });
  std::exclusive_scan(before.begin(), before.end(), before.begin(), 0);
  for_blocks([&](int64_t block, int64_t begin, int64_t end) {  // counts become places
    int32_t* const places = counted.counts.data();
    int32_t at = before[block];
    for (int64_t voxel = begin; voxel < end; ++voxel) {
      a.point_offsets[voxel] = at;
      for (int64_t part = 0; part < parts; ++part) at += std::exchange(places[part * voxels + voxel], at);
    }
  });
  a.point_offsets[voxels] = n;

  team.tasks(parts, [&](int64_t part, int) {
    int32_t* const next = counted.of(part);
    const int64_t* const voxel_of_point = a.voxel_of_point;
    int64_t* const order = a.order;
    const int64_t begin = counted.begin(part), end = counted.begin(part + 1);
    for (int64_t i = begin; i < end; ++i) {
      __builtin_prefetch(next + voxel_of_point[std::min(i + 2 * ahead, n - 1)], 1);
      __builtin_prefetch(order + next[voxel_of_point[std::min(i + ahead, n - 1)]], 1);
      order[next[voxel_of_point[i]]++] = i;
    }
  });

  // Clouds are consecutive in `order` too, so the first of a cloud's points there lies in its first voxel.
  a.voxel_offsets[a.num_clouds] = voxels;
  for (int64_t cloud = a.num_clouds - 1; cloud >= 0; --cloud)
    a.voxel_offsets[cloud] = a.offsets[cloud] == a.offsets[cloud + 1] ? a.voxel_offsets[cloud + 1]
                                                                      : a.voxel_of_point[a.order[a.offsets[cloud]]];
}

template <class T>
int64_t run(const GridSubsample<T>& a, const Parallel& parallel) {
  constexpr int64_t most_parts = 8;  // each has an array over the voxels
  const GridVoxels<T>& v = a.voxels;
  int64_t result = 0;
  Team::run(parallel, v.num_points / 8192, [&](Team& team) {
    RankCounts counted(v.num_points, std::min<int64_t>(team.threads(), most_parts));
    if (v.num_points > 0 && !find_voxels(v, team, counted)) {
      result = -1 - first_bad_row(v);
      return;
    }
    result = counted.ranks;
    const GridOrder order{.voxel_of_point = v.voxel_of_point,
                          .offsets = v.offsets,
                          .order = a.order,
                          .point_offsets = a.point_offsets(a.context, result + 1),
                          .voxel_offsets = a.voxel_offsets,
                          .num_points = v.num_points,
                          .num_voxels = result,
                          .num_clouds = v.num_clouds};
    sort_points(order, team, counted);
  });
  return result;
}

}  // namespace

int64_t grid_subsample(const GridSubsample<float>& a, const Parallel& parallel) { return run(a, parallel); }
int64_t grid_subsample(const GridSubsample<double>& a, const Parallel& parallel) { return run(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
