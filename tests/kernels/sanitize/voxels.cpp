// The kernels on voxels, segments and neighbour lists under the address and undefined-behaviour sanitizers, on exactly
// sized heap arrays, with one thread and with several. Exits 0 if nothing was found and the simple checks hold.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "../../../csrc/kernels/gather_neighbors.h"
#include "../../../csrc/kernels/grid_subsample.h"
#include "../../../csrc/kernels/height_above_minimum.h"
#include "../../../csrc/kernels/local_geometry.h"
#include "../../../csrc/kernels/segment_reduce.h"
#include "../../../csrc/kernels/voxel_features.h"

using namespace pcseg;

namespace {

void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

Parallel three_threads() {
  return Parallel(
      [](int64_t n, int64_t grain, Parallel::Body body, void* context) {
        const int64_t part = std::max(grain, (n + 2) / 3);
        std::vector<std::thread> threads;
        for (int64_t begin = 0; begin < n; begin += part)
          threads.emplace_back([=] { body(context, begin, std::min(n, begin + part)); });
        for (auto& thread : threads) thread.join();
      },
      3);
}

template <class T>
std::vector<T> random_values(std::mt19937& rng, int64_t n, double scale) {
  std::uniform_real_distribution<double> uniform(-scale, scale);
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(uniform(rng));
  return values;
}

// grid_subsample with point_offsets in a vector.
template <class T>
int64_t grid(const GridVoxels<T>& a, std::vector<int64_t>& order, std::vector<int64_t>& bounds,
             std::vector<int64_t>& cloud, const Parallel& parallel) {
  const auto make = [](void* made, int64_t size) {
    auto& vector = *static_cast<std::vector<int64_t>*>(made);
    vector.resize(size);
    return vector.data();
  };
  return run_grid_subsample<T>({a, order.data(), cloud.data(), make, &bounds}, parallel);
}

template <class T>
void voxels(std::mt19937& rng, int64_t n, int dims, int64_t channels, double scale, const Parallel& parallel) {
  const std::vector<T> coords = random_values<T>(rng, n * dims, scale), feats = random_values<T>(rng, n * channels, 1);
  const std::vector<int64_t> offsets{0, n / 3, n / 3, n};
  std::vector<int64_t> voxel(n), order(n), cloud(4), labels(n);
  for (int64_t& label : labels) label = static_cast<int64_t>(rng() % 300) - 1;
  std::vector<int64_t> bounds;
  const int64_t count = grid<T>({coords.data(), offsets.data(), voxel.data(), n, 3, dims, T(0.5)}, order, bounds, cloud,
                                parallel);
  expect(count >= 0 && count <= n, "number of voxels");
  expect(bounds[count] == n && cloud[3] == count, "all points are in voxels");
  for (int64_t v = 0; v < count; ++v)
    for (int64_t i = bounds[v]; i < bounds[v + 1]; ++i) expect(voxel[order[i]] == v, "order sorts by voxel");

  std::vector<T> centres(count * dims), means(count * channels);
  std::vector<int64_t> majority(count);
  const VoxelFeatures<T, T> features{coords.data(),   feats.data(), labels.data(), voxel.data(),
                                     order.data(),    bounds.data(), centres.data(), means.data(),
                                     majority.data(), n,             count,          dims,
                                     channels};
  expect(run_voxel_features(features, parallel) == VoxelFault::none, "voxel features");
  if (n > 0) {
    labels[n / 2] = -2;
    expect(run_voxel_features(features, parallel) == VoxelFault::label, "a label below -1 is found");
    labels[n / 2] = 0;
    voxel[n / 2] = count;
    expect(run_voxel_features(features, parallel) == VoxelFault::voxel, "a voxel outside is found");
  }
}

template <class T>
void lists(std::mt19937& rng, int64_t n, int64_t width, int64_t channels, const Parallel& parallel) {
  const std::vector<T> values = random_values<T>(rng, n * channels, 1);
  std::vector<int64_t> neighbors(n * width);
  for (int64_t& row : neighbors) row = static_cast<int64_t>(rng() % (n + 1));
  std::vector<T> out(n * width * channels), grad(n * channels);
  expect(run_gather_neighbors<T>({values.data(), neighbors.data(), out.data(), n, n * width, channels, T(0)}, parallel),
         "gather");
  run_gather_neighbors_backward<T>({out.data(), neighbors.data(), grad.data(), n, n * width, channels}, parallel);
  for (const int dims : {2, 3}) {
    const std::vector<T> coords = random_values<T>(rng, n * dims, 1);
    std::vector<T> eigenvalues(n * dims), normals(n * dims), features(n * num_shape_features);
    expect(run_local_geometry<T>({coords.data(), neighbors.data(), eigenvalues.data(), normals.data(), features.data(),
                                  n, n, width, dims},
                                 parallel),
           "local geometry");
  }
}

template <class T>
void segments(std::mt19937& rng, int64_t count, int64_t longest, int64_t channels, const Parallel& parallel) {
  std::vector<int64_t> offsets(count + 1, 2);
  for (int64_t s = 0; s < count; ++s) offsets[s + 1] = offsets[s] + static_cast<int64_t>(rng() % (longest + 1));
  const int64_t rows = offsets[count] + 3;
  const std::vector<T> values = random_values<T>(rng, rows * channels, 1);
  for (const Reduce reduce : {Reduce::sum, Reduce::mean, Reduce::max}) {
    std::vector<T> out(count * channels), grad(rows * channels);
    std::vector<int64_t> arg(reduce == Reduce::max ? count * channels : 0);
    run_segment_reduce<T>({values.data(), offsets.data(), out.data(), arg.data(), count, channels, reduce}, parallel);
    run_segment_reduce_backward<T>(
        {out.data(), offsets.data(), arg.data(), grad.data(), rows, count, channels, reduce}, parallel);
  }
}

template <class T>
void heights(std::mt19937& rng, int64_t n, const Parallel& parallel) {
  const std::vector<T> coords = random_values<T>(rng, n * 3, 5);
  std::vector<T> plane(n * 2), height(n);
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < 2; ++d) plane[i * 2 + d] = coords[i * 3 + d];
  const std::vector<int64_t> offsets{0, n / 2, n};
  std::vector<int64_t> cell(n), order(n), cloud(3);
  std::vector<int64_t> bounds;
  const int64_t count = grid<T>({plane.data(), offsets.data(), cell.data(), n, 2, 2, T(0.5)}, order, bounds, cloud,
                                parallel);
  expect(run_height_above_minimum<T>({coords.data(), cell.data(), order.data(), bounds.data(), cloud.data(),
                                      height.data(), n, count, 2, T(0.5)},
                                     parallel),
         "height");
  for (const T h : height) expect(h >= T(0), "no point lies below the lowest");
}

template <class T>
void all(const Parallel& parallel) {
  std::mt19937 rng(7);
  for (const int64_t n : {0, 1, 2, 5, 300, 9000}) {
    for (const int dims : {1, 2, 3, 8})
      for (const double scale : {0.1, 3.0, 1e8}) voxels<T>(rng, n, dims, n > 300 ? 3 : dims, scale, parallel);
    for (const int64_t channels : {0, 4, 9, 16, 20}) voxels<T>(rng, n, 3, channels, 3.0, parallel);
    for (const int64_t channels : {1, 2, 3, 4, 7}) lists<T>(rng, n, 5, channels, parallel);
    heights<T>(rng, n, parallel);
  }
  for (const int64_t channels : {1, 3, 17}) {
    segments<T>(rng, 0, 4, channels, parallel);
    segments<T>(rng, 500, 9, channels, parallel);
    segments<T>(rng, 4, 20000, channels, parallel);
  }
}

}  // namespace

int main() {
  for (const Parallel& parallel : {Parallel::serial(), three_threads()}) {
    all<float>(parallel);
    all<double>(parallel);
  }
}
