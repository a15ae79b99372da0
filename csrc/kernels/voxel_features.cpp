#include "voxel_features.h"

#include <vector>

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t ahead = 24;  // points between a prefetch and its use

inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

template <int Dims, class C, class F>
void barycentres(const VoxelFeatures<C, F>& a, int64_t begin, int64_t end) {
  const int64_t dims = Dims ? Dims : a.dims;
  double fixed[Dims ? Dims : 1];
  std::vector<double> any(Dims ? 0 : dims);
  double* sum = Dims ? fixed : any.data();
  const int64_t last_row = a.point_offsets[end];
  for (int64_t v = begin; v < end; ++v) {
    const int64_t from = a.point_offsets[v], to = a.point_offsets[v + 1];
    C* out = a.out_coords + v * dims;
    if (from == to) {
      for (int64_t d = 0; d < dims; ++d) out[d] = 0;
      continue;
    }
    const C* origin = a.coords + a.order[from] * dims;
    for (int64_t d = 0; d < dims; ++d) sum[d] = 0;
    for (int64_t i = from; i < to; ++i) {
      const C* row = a.coords + a.order[i] * dims;
      prefetch(a.coords + a.order[i + ahead < last_row ? i + ahead : i] * dims);
      for (int64_t d = 0; d < dims; ++d) sum[d] += static_cast<double>(row[d]) - static_cast<double>(origin[d]);
    }
    const double count = static_cast<double>(to - from);
    for (int64_t d = 0; d < dims; ++d) out[d] = static_cast<C>(static_cast<double>(origin[d]) + sum[d] / count);
  }
}

template <int Channels, class C, class F>
void means(const VoxelFeatures<C, F>& a, int64_t begin, int64_t end) {
  const int64_t channels = Channels ? Channels : a.channels;
  const int64_t last_row = a.point_offsets[end];
  F fixed[Channels ? Channels : 1];
  for (int64_t v = begin; v < end; ++v) {
    const int64_t from = a.point_offsets[v], to = a.point_offsets[v + 1];
    F* out = a.out_feats + v * channels;
    F* sum = Channels ? fixed : out;
    for (int64_t c = 0; c < channels; ++c) sum[c] = 0;
    for (int64_t i = from; i < to; ++i) {
      const F* row = a.feats + a.order[i] * channels;
      prefetch(a.feats + a.order[i + ahead < last_row ? i + ahead : i] * channels);
      for (int64_t c = 0; c < channels; ++c) sum[c] += row[c];
    }
    const F count = static_cast<F>(to > from ? to - from : 1);
    for (int64_t c = 0; c < channels; ++c) out[c] = sum[c] / count;
  }
}

// The most frequent label of a voxel whose labels differ. Low classes are counted in a table, any others sorted.
class Majority {
 public:
  int64_t of(std::vector<int64_t>& labels) {
    int64_t highest = -1;
    for (const int64_t label : labels) highest = std::max(highest, label);
    return highest < table_size ? by_table(labels) : by_sorting(labels);
  }

 private:
  static constexpr int64_t table_size = 256;
  int64_t count_[table_size] = {};

  int64_t by_table(const std::vector<int64_t>& labels) {
    int64_t best = -1, most = 0;
    for (const int64_t label : labels) {
      if (label < 0) continue;
      const int64_t count = ++count_[label];
      if (count > most || (count == most && label < best)) {
        most = count;
        best = label;
      }
    }
    for (const int64_t label : labels)
      if (label >= 0) count_[label] = 0;
    return best;
  }

  static int64_t by_sorting(std::vector<int64_t>& labels) {
    std::sort(labels.begin(), labels.end());
    int64_t best = -1, most = 0;
    for (size_t i = 0, j; i < labels.size(); i = j) {
      for (j = i; j < labels.size() && labels[j] == labels[i];) ++j;
      if (labels[i] >= 0 && static_cast<int64_t>(j - i) > most) {
        most = static_cast<int64_t>(j - i);
        best = labels[i];
      }
    }
    return best;
  }
};

template <class C, class F>
bool majorities(const VoxelFeatures<C, F>& a, int64_t begin, int64_t end, std::vector<int64_t>& labels,
                Majority& majority) {
  bool valid = true;
  const int64_t last_row = a.point_offsets[end];
  for (int64_t v = begin; v < end; ++v) {
    const int64_t from = a.point_offsets[v], to = a.point_offsets[v + 1];
    labels.resize(to - from);
    bool differ = false, low = false;
    for (int64_t i = from; i < to; ++i) {
      prefetch(a.labels + a.order[i + ahead < last_row ? i + ahead : i]);
      const int64_t label = a.labels[a.order[i]];
      labels[i - from] = label;
      differ |= label != labels[0];
      low |= label < -1;
    }
    valid &= !low;
    a.out_labels[v] = from == to ? -1 : low || !differ ? labels[0] : majority.of(labels);
  }
  return valid;
}

template <class C, class F>
VoxelFault run(const VoxelFeatures<C, F>& a, const Parallel& parallel) {
  std::atomic<int> fault{0};
  parallel.ranges(a.num_voxels, 1024, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> labels;
    Majority majority;
    constexpr int64_t block = 512;  // the voxels' part of `order` stays in cache for all three
    for (int64_t v = begin; v < end; v += block) {
      const int64_t last = std::min(end, v + block);
      bool inside = true;
      for (int64_t i = a.point_offsets[v]; i < a.point_offsets[last]; ++i)
        inside &= static_cast<uint64_t>(a.order[i]) < static_cast<uint64_t>(a.num_points);
      if (!inside) {
        fault = static_cast<int>(VoxelFault::row);
        continue;
      }
      if (a.dims == 3) barycentres<3>(a, v, last);
      else if (a.dims == 2) barycentres<2>(a, v, last);
      else barycentres<0>(a, v, last);
      if (a.feats && a.channels == 1) means<1>(a, v, last);
      else if (a.feats && a.channels == 3) means<3>(a, v, last);
      else if (a.feats) means<0>(a, v, last);
      if (a.labels && !majorities(a, v, last, labels, majority)) fault = static_cast<int>(VoxelFault::label);
    }
  });
  return static_cast<VoxelFault>(fault.load());
}

}  // namespace

VoxelFault voxel_features(const VoxelFeatures<float, float>& a, const Parallel& p) { return run(a, p); }
VoxelFault voxel_features(const VoxelFeatures<float, double>& a, const Parallel& p) { return run(a, p); }
VoxelFault voxel_features(const VoxelFeatures<double, float>& a, const Parallel& p) { return run(a, p); }
VoxelFault voxel_features(const VoxelFeatures<double, double>& a, const Parallel& p) { return run(a, p); }

}  // namespace pcseg::PCSEG_ISA
