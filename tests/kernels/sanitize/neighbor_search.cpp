#include <cmath>
#include <limits>

#include "../../../csrc/kernels/neighbor_search.h"
#include "sanitize.h"

namespace {

template <class T>
struct Result {
  std::vector<int64_t> index;
  std::vector<T> sq_dist;
};

template <class T>
Result<T> search(const std::vector<T>& query, const std::vector<T>& support, const std::vector<int64_t>& query_offsets,
                 const std::vector<int64_t>& support_offsets, int64_t dim, int64_t k, T max_sq_dist,
                 const pcseg::Parallel& parallel) {
  const int64_t m = static_cast<int64_t>(query.size()) / dim, n = static_cast<int64_t>(support.size()) / dim;
  Result<T> result{std::vector<int64_t>(m * k, -7), std::vector<T>(m * k, T(-7))};
  pcseg::run_neighbor_search<T>({.query = query.data(),
                                 .support = support.data(),
                                 .query_offsets = query_offsets.data(),
                                 .support_offsets = support_offsets.data(),
                                 .num_query = m,
                                 .num_support = n,
                                 .num_clouds = static_cast<int64_t>(query_offsets.size()) - 1,
                                 .dim = dim,
                                 .k = k,
                                 .max_sq_dist = max_sq_dist,
                                 .index = result.index.data(),
                                 .sq_dist = result.sq_dist.data()},
                                parallel);
  return result;
}

// Every place is written, lists ascend, and each distance is that of its row.
template <class T>
void check(const std::vector<T>& query, const std::vector<T>& support, const std::vector<int64_t>& query_offsets,
           const std::vector<int64_t>& support_offsets, int64_t dim, int64_t k, T max_sq_dist) {
  const int64_t n = static_cast<int64_t>(support.size()) / dim;
  const Result<T> a =
      search(query, support, query_offsets, support_offsets, dim, k, max_sq_dist, pcseg::Parallel::serial());
  const Result<T> b = search(query, support, query_offsets, support_offsets, dim, k, max_sq_dist, three_threads());
  CHECK(a.index == b.index && a.sq_dist == b.sq_dist);
  for (size_t i = 0; i < a.index.size(); ++i) {
    CHECK(a.index[i] >= 0 && a.index[i] <= n);
    CHECK((a.index[i] == n) == std::isinf(a.sq_dist[i]));
    CHECK(static_cast<int64_t>(i) % k == 0 || a.sq_dist[i - 1] <= a.sq_dist[i]);
    if (a.index[i] == n) continue;
    T sum = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const T difference = support[a.index[i] * dim + d] - query[static_cast<int64_t>(i) / k * dim + d];
      sum += difference * difference;
    }
    CHECK(sum == a.sq_dist[i] && sum <= max_sq_dist);
  }
}

template <class T>
void run() {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  for (int64_t dim = 1; dim <= 8; ++dim)
    for (int64_t k : {1, 3, 64, 65}) {
      const std::vector<T> support = uniform<T>(700 * dim, 1), query = uniform<T>(90 * dim, 2);
      check<T>(query, support, {0, 0, 30, 90}, {0, 17, 100, 700}, dim, k, kInfinity);
      check<T>(query, support, {0, 90}, {0, 700}, dim, k, T(0.04));
      check<T>(support, support, {0, 700}, {0, 700}, dim, k, kInfinity);
    }
  // Queries that are as far from all leaves, more than a walk keeps; and from all of them too far.
  std::vector<T> sphere = uniform<T>(3 * 6000, 5), near_centre = uniform<T>(3 * 40, 6);
  for (size_t i = 0; i < sphere.size(); i += 3) {
    T* p = sphere.data() + i;
    for (int d = 0; d < 3; ++d) p[d] -= T(0.5);
    const T norm = std::sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
    for (int d = 0; d < 3; ++d) p[d] /= norm;
  }
  for (T& x : near_centre) x *= T(1e-3);
  for (int64_t k : {1, 3, 16}) {
    check<T>(near_centre, sphere, {0, 40}, {0, 6000}, 3, k, kInfinity);
    check<T>(near_centre, sphere, {0, 40}, {0, 6000}, 3, k, T(0.25));
  }
  check<T>({}, {}, {0}, {0}, 3, 4, kInfinity);
  check<T>({}, {}, {0, 0}, {0, 0}, 3, 4, kInfinity);
  check<T>(uniform<T>(30, 1), {}, {0, 10}, {0, 0}, 3, 4, kInfinity);

  // Crowded, far apart, and not finite: as many levels of the curve, and queries that search alone.
  std::vector<T> odd = uniform<T>(3 * 4000, 3);
  for (int64_t i = 0; i < 3 * 1500; ++i) odd[i] = T(0.25);
  for (int64_t i = 3 * 1500; i < 3 * 3000; ++i) odd[i] *= T(1e-6);
  odd[0] = std::numeric_limits<T>::quiet_NaN();
  odd[4] = kInfinity;
  odd[3 * 3999] = std::numeric_limits<T>::max();
  odd[3 * 3998] = -std::numeric_limits<T>::max();
  check<T>(odd, odd, {0, 4000}, {0, 4000}, 3, 16, kInfinity);
  check<T>(odd, odd, {0, 4000}, {0, 4000}, 3, 16, T(0.01));
  const std::vector<T> large = uniform<T>(3 * 40000, 4);
  check<T>(large, large, {0, 40000}, {0, 40000}, 3, 4, kInfinity);
}

}  // namespace

int main() {
  run<float>();
  run<double>();
}
