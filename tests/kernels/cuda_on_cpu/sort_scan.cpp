// Sort and scan for kernels that run on a CPU; CUB's own are not ours to test.
#include "../../../csrc/kernels/sort_scan.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace pcseg::cuda {

size_t sort_workspace_bytes(int64_t, int) { return 1; }
size_t scan_workspace_bytes(int64_t) { return 1; }

void sort_pairs(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
                int bits, void*, size_t, void*) {
  const uint64_t mask = bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int64_t i = 0; i < n; ++i) {
    sorted_keys[i] = keys[order[i]];
    sorted_values[i] = values[order[i]];
  }
}

void inclusive_scan(const int32_t* items, int32_t* sums, int64_t n, void*, size_t, void*) {
  std::partial_sum(items, items + n, sums);
}

}  // namespace pcseg::cuda
