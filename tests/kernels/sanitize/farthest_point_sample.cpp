#include <algorithm>
#include <limits>

#include "../../../csrc/kernels/farthest_point_sample.h"
#include "sanitize.h"

namespace {

template <class T>
std::vector<int64_t> sample(const std::vector<T>& coords, const std::vector<int64_t>& offsets,
                            const std::vector<int64_t>& counts, const std::vector<int64_t>& start, int64_t dim,
                            const pcseg::Parallel& parallel, int64_t bad = -1) {
  std::vector<int64_t> sample_offsets{0};
  for (const int64_t count : counts) sample_offsets.push_back(sample_offsets.back() + count);
  sample_offsets.shrink_to_fit();
  std::vector<int64_t> samples(sample_offsets.back(), -7);
  const int64_t found =
      pcseg::run_farthest_point_sample<T>({.coords = coords.data(),
                                           .offsets = offsets.data(),
                                           .sample_offsets = sample_offsets.data(),
                                           .start = start.data(),
                                           .num_points = static_cast<int64_t>(coords.size()) / dim,
                                           .num_clouds = static_cast<int64_t>(counts.size()),
                                           .num_samples = sample_offsets.back(),
                                           .dim = dim,
                                           .samples = samples.data()},
                                          parallel);
  CHECK(found == bad);
  return samples;
}

// Each row once, within its cloud, the start first; threads change nothing.
template <class T>
void check(const std::vector<T>& coords, const std::vector<int64_t>& offsets, const std::vector<int64_t>& counts,
           const std::vector<int64_t>& start, int64_t dim) {
  const std::vector<int64_t> rows = sample(coords, offsets, counts, start, dim, pcseg::Parallel::serial());
  CHECK(rows == sample(coords, offsets, counts, start, dim, three_threads()));
  const int64_t* row = rows.data();
  for (size_t b = 0; b < counts.size(); row += counts[b], ++b) {
    std::vector<int64_t> sorted(row, row + counts[b]);
    std::sort(sorted.begin(), sorted.end());
    CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
    if (counts[b] == 0) continue;
    CHECK(sorted.front() >= offsets[b] && sorted.back() < offsets[b + 1] && row[0] == offsets[b] + start[b]);
  }
}

template <class T>
void run() {
  for (int64_t dim = 1; dim <= 8; ++dim) {
    const std::vector<T> coords = uniform<T>(900 * dim, 1);
    check<T>(coords, {0, 900}, {900}, {13}, dim);
    check<T>(coords, {0, 0, 17, 217, 900}, {0, 17, 100, 33}, {5, 16, 0, 682}, dim);
    check<T>(coords, {0, 1, 17, 217, 900}, {1, 0, 9, 32}, {0, 99, 199, 3}, dim);
  }
  check<T>({}, {0}, {}, {}, 3);
  check<T>({}, {0, 0}, {0}, {0}, 3);
  check<T>(uniform<T>(3, 1), {0, 1}, {1}, {0}, 3);
  check<T>(uniform<T>(3 * 12000, 1), {0, 5000, 5100, 12000}, {200, 50, 100}, {4999, 0, 1}, 3);
  check<T>(uniform<T>(3 * 80000, 1), {0, 80000}, {50}, {0}, 3);

  std::vector<T> odd = uniform<T>(3 * 3000, 3);
  for (int64_t i = 0; i < 3 * 1500; ++i) odd[i] = T(0.25);
  odd[3 * 2999] = std::numeric_limits<T>::max();
  odd[3 * 2998] = -std::numeric_limits<T>::max();
  check<T>(odd, {0, 3000}, {2000}, {0}, 3);
  odd[3 * 2000 + 1] = std::numeric_limits<T>::quiet_NaN();
  odd[3 * 2500] = std::numeric_limits<T>::infinity();
  sample<T>(odd, {0, 3000}, {2000}, {0}, 3, three_threads(), 2000);
}

}  // namespace

int main() {
  run<float>();
  run<double>();
}
