#include "sort_scan.h"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "cuda_launch.h"

namespace pcseg::cuda {
namespace {

int size(int64_t n) { return static_cast<int>(n); }

}  // namespace

size_t sort_workspace_bytes(int64_t n, int bits) {
  size_t bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, static_cast<const uint64_t*>(nullptr),
                                        static_cast<uint64_t*>(nullptr), static_cast<const int32_t*>(nullptr),
                                        static_cast<int32_t*>(nullptr), size(n), 0, bits),
        "sort");
  return bytes;
}

void sort_pairs(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
                int bits, void* workspace, size_t workspace_bytes, void* stream) {
  if (n == 0) return;
  check(cub::DeviceRadixSort::SortPairs(workspace, workspace_bytes, keys, sorted_keys, values, sorted_values, size(n),
                                        0, bits, stream_of(stream)),
        "sort");
}

size_t scan_workspace_bytes(int64_t n) {
  size_t bytes = 0;
  check(cub::DeviceScan::InclusiveSum(nullptr, bytes, static_cast<const int32_t*>(nullptr),
                                      static_cast<int32_t*>(nullptr), size(n)),
        "scan");
  return bytes;
}

void inclusive_scan(const int32_t* items, int32_t* sums, int64_t n, void* workspace, size_t workspace_bytes,
                    void* stream) {
  if (n == 0) return;
  check(cub::DeviceScan::InclusiveSum(workspace, workspace_bytes, items, sums, size(n), stream_of(stream)), "scan");
}

}  // namespace pcseg::cuda
