// The permutohedral lattice and the filter on it under the address and undefined-behaviour sanitizers, on exactly sized
// heap arrays, with one thread and with several. Exits 0 if nothing was found and the simple checks hold.
#include <cmath>
#include <limits>

#include "../../../csrc/kernels/gaussian_filter.h"
#include "../../../csrc/kernels/permutohedral_lattice.h"
#include "sanitize.h"

using namespace pcseg;

namespace {

template <class T>
void check(int64_t n, int dims, int64_t channels, double spread, const Parallel& parallel) {
  std::vector<T> positions = uniform<T>(n * dims, 1);
  for (T& x : positions) x *= static_cast<T>(spread);
  const std::vector<int64_t> offsets{0, n / 3, n / 3, n};
  std::vector<int32_t> vertices(n * (dims + 1)), neighbors;
  std::vector<T> weights(n * (dims + 1));
  struct Context {
    std::vector<int32_t>& neighbors;
    int dims;
  } context{neighbors, dims};
  const PermutohedralLattice<T> lattice{
      positions.data(), offsets.data(), vertices.data(), weights.data(), n, 3, dims,
      [](void* c, int64_t count) {
        auto& to = *static_cast<Context*>(c);
        to.neighbors.resize((to.dims + 1) * (count + 1) * 2);
        return to.neighbors.data();
      },
      &context};
  const int64_t count = run_permutohedral_lattice<T>(lattice, parallel);
  CHECK(count >= 0 && count <= n * (dims + 1));
  const std::vector<T> values = uniform<T>(n * channels, 2);
  std::vector<T> out(n * channels);
  for (const bool transpose : {false, true}) {
    const GaussianFilter<T> filter{values.data(), vertices.data(), weights.data(), neighbors.data(), out.data(), n,
                                   count,         channels,        dims,           transpose};
    CHECK(run_gaussian_filter<T>(filter, parallel));
    for (const T x : out) CHECK(x >= 0 && std::isfinite(x));
    if (n > 0 && channels > 0) {
      std::vector<int32_t> wrong = vertices;
      wrong[n / 2] = static_cast<int32_t>(count);
      GaussianFilter<T> broken = filter;
      broken.vertices = wrong.data();
      CHECK(!run_gaussian_filter<T>(broken, parallel));
    }
  }
  if (n > 0) {
    positions[n * dims / 2] = std::numeric_limits<T>::quiet_NaN();
    CHECK(run_permutohedral_lattice<T>(lattice, parallel) == -1 - n * dims / 2 / dims);
  }
}

template <class T>
void all(const Parallel& parallel) {
  for (const int64_t n : {0, 1, 2, 65, 9000})
    for (const int dims : {2, 5, 8})
      for (const double spread : {1e-3, 10.0, 9e6}) check<T>(n, dims, 3, spread, parallel);
  for (const int64_t channels : {0, 1, 4, 8, 16, 21, 33, 48, 80, 130}) check<T>(3000, 3, channels, 5, parallel);
}

}  // namespace

int main() {
  for (const Parallel& parallel : {Parallel::serial(), three_threads()}) {
    all<float>(parallel);
    all<double>(parallel);
  }
}
