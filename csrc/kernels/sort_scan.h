// Sort and scan on a GPU. CUB takes long to compile, so sort_scan.cu alone includes it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcseg::cuda {

// Both leave their input untouched and work on n < 2^31 items; n == 0 does nothing.

// Stable ascending sort of (key, value) pairs by the lowest `bits` bits of the keys.
size_t sort_workspace_bytes(int64_t n, int bits);
void sort_pairs(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
                int bits, void* workspace, size_t workspace_bytes, void* stream);

// sums[i] = items[0] + ... + items[i].
size_t scan_workspace_bytes(int64_t n);
void inclusive_scan(const int32_t* items, int32_t* sums, int64_t n, void* workspace, size_t workspace_bytes,
                    void* stream);

}  // namespace pcseg::cuda
