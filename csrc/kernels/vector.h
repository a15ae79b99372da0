// Vectors as wide as the instruction set's registers, and memory to load them from.
//
// Everything here is compiled once per instruction set, so it lives in PCSEG_ISA's unnamed namespace: the linker must
// never merge two versions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "huge_pages.h"

namespace pcseg::PCSEG_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kRegisters = 16;
#else
constexpr int kVectorBytes = 16, kRegisters = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vector<T> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
inline Vector<T> broadcast(T x) {
  return x - Vector<T>{};
}

// a * b + c, fused where the instruction set can.
template <class T>
inline Vector<T> multiply_add(Vector<T> a, Vector<T> b, Vector<T> c) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return (Vector<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else
    return (Vector<T>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  if constexpr (std::is_same_v<T, float>)
    return (Vector<T>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else
    return (Vector<T>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// `keep` ? v : 0, without a branch.
template <class T>
inline Vector<T> keep_if(bool keep, Vector<T> v) {
#if defined(__AVX512F__)
  const unsigned mask = -static_cast<unsigned>(keep);
  if constexpr (std::is_same_v<T, float>)
    return (Vector<T>)_mm512_maskz_mov_ps(static_cast<__mmask16>(mask), (__m512)v);
  else
    return (Vector<T>)_mm512_maskz_mov_pd(static_cast<__mmask8>(mask), (__m512d)v);
#else
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  const Vector<Bits> mask = -static_cast<Bits>(keep) - Vector<Bits>{};
  return (Vector<T>)((Vector<Bits>)v & mask);
#endif
}

template <class T>
inline T sum_lanes(Vector<T> v) {
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// kept[mask]: the lanes in mask, in order, then zeros; a permutation that moves them to the front.
struct KeptLanes {
  uint8_t of[256][8];
  constexpr KeptLanes() : of{} {
    for (int mask = 0; mask < 256; ++mask)
      for (int lane = 0, n = 0; lane < 8; ++lane)
        if (mask >> lane & 1) of[mask][n++] = static_cast<uint8_t>(lane);
  }
};
constexpr KeptLanes kKeptLanes;
#endif

// Writes the lanes where value < limit, and their entries of `index`, to the front of kept_value and kept_index; returns
// how many. Whole vectors are written: both need kLanes<T> places.
template <class T>
inline int64_t compress(Vector<T> value, Vector<T> limit, const int32_t* index, T* kept_value, int32_t* kept_index) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    const __mmask16 mask = _mm512_cmp_ps_mask((__m512)value, (__m512)limit, _CMP_LT_OQ);
    _mm512_storeu_ps(kept_value, _mm512_maskz_compress_ps(mask, (__m512)value));
    _mm512_storeu_si512(kept_index, _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(index)));
    return __builtin_popcount(mask);
  } else {
    const __mmask8 mask = _mm512_cmp_pd_mask((__m512d)value, (__m512d)limit, _CMP_LT_OQ);
    _mm512_storeu_pd(kept_value, _mm512_maskz_compress_pd(mask, (__m512d)value));
    const __m256i kept = _mm256_maskz_compress_epi32(mask, _mm256_loadu_si256((const __m256i*)index));
    _mm256_storeu_si256((__m256i*)kept_index, kept);
    return __builtin_popcount(mask);
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    const int mask = _mm256_movemask_ps(_mm256_cmp_ps((__m256)value, (__m256)limit, _CMP_LT_OQ));
    const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)kKeptLanes.of[mask]));
    _mm256_storeu_ps(kept_value, _mm256_permutevar8x32_ps((__m256)value, order));
    const __m256i kept = _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i*)index), order);
    _mm256_storeu_si256((__m256i*)kept_index, kept);
    return __builtin_popcount(mask);
  }
#endif
  int64_t n = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    kept_value[n] = value[lane];
    kept_index[n] = index[lane];
    n += value[lane] < limit[lane];
  }
  return n;
}

// Uninitialised, aligned memory that grows and keeps its contents.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) { grow(size); }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](int64_t i) { return data_[i]; }
  void grow(int64_t size) {
    if (size <= size_) return;
    size = size_ ? std::max(size, 2 * size_) : size;
    std::unique_ptr<T[], Free> bigger(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{64})));
    prefer_huge_pages(bigger.get(), size * sizeof(T));
    if (size_) std::memcpy(bigger.get(), data_.get(), size_ * sizeof(T));
    data_ = std::move(bigger);
    size_ = size;
  }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
