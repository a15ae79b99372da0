// Large memory in huge pages.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pcseg {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// Asks for huge pages in memory that nothing has written yet: the first write of a page costs the kernel as much for 2 MB
// as for a few dozen pages of 4 KB.
inline void prefer_huge_pages(void* p, size_t bytes) {
#if defined(__linux__)
  if (bytes < 2 * kHugePage) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + kHugePage - 1) & ~uintptr_t{kHugePage - 1};
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) & ~uintptr_t{kHugePage - 1};
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

}  // namespace
}  // namespace pcseg
