// Uninitialised memory for kernels, aligned to cache lines, in huge pages where it is large.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pcseg::PCSEG_ISA {

constexpr size_t kHugePage = size_t{2} << 20;

// Asks for huge pages in memory that nothing has written yet: the first write of a page costs the kernel as much for 2 MB
// as for a few dozen pages of 4 KB.
inline void prefer_huge_pages(void* p, size_t bytes) {
#if defined(__linux__)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + kHugePage - 1) & ~uintptr_t{kHugePage - 1};
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) & ~uintptr_t{kHugePage - 1};
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    data_.reset(static_cast<T*>(::operator new(bytes, std::align_val_t{kAlignment})));
    if (bytes >= 2 * kHugePage) prefer_huge_pages(data_.get(), bytes);
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(T* p) const { ::operator delete(static_cast<void*>(p), std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<T[], Free> data_;
};

}  // namespace pcseg::PCSEG_ISA
