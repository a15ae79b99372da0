// Uninitialised memory for kernels, aligned to cache lines, in huge pages where it is large.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "huge_pages.h"

namespace pcseg::PCSEG_ISA {

template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    data_.reset(static_cast<T*>(::operator new(bytes, std::align_val_t{kAlignment})));
    prefer_huge_pages(data_.get(), bytes);
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
