// Sixteen values at a time, with one interface whatever the registers: one of AVX-512, two of AVX2, four of 16 bytes.
//
// Everything here is compiled once per instruction set, so it lives in PCSEG_ISA's unnamed namespace: the linker must
// never merge two versions. Arithmetic rounds each operation by itself, so that results are the same for every
// instruction set; only multiply_add may fuse.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PCSEG_INLINE inline __attribute__((always_inline))

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int kLaneCount = 16;
#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

using Mask = uint32_t;  // bit i: lane i; 16 bits
constexpr Mask kAllLanes = 0xffff;

template <class T>
struct RegisterOf {
  typedef T type __attribute__((vector_size(kRegisterBytes)));
};

template <class T>
struct Lanes {
  using Register = typename RegisterOf<T>::type;
  static constexpr int kRegisterLanes = kRegisterBytes / static_cast<int>(sizeof(T));
  static constexpr int kCount = kLaneCount / kRegisterLanes;
  Register v[kCount];

  static PCSEG_INLINE Lanes load(const T* p) {
    Lanes r;
    for (int i = 0; i < kCount; ++i) std::memcpy(&r.v[i], p + i * kRegisterLanes, kRegisterBytes);
    return r;
  }
  static PCSEG_INLINE Lanes fill(T x) {
    Lanes r;
    for (int i = 0; i < kCount; ++i) r.v[i] = x - Register{};
    return r;
  }
  static PCSEG_INLINE Lanes iota() {  // 0, 1, 2, ...
    static constexpr T kIota[kLaneCount] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return load(kIota);
  }
  PCSEG_INLINE void store(T* p) const {
    for (int i = 0; i < kCount; ++i) std::memcpy(p + i * kRegisterLanes, &v[i], kRegisterBytes);
  }
};

using F16 = Lanes<float>;
using D16 = Lanes<double>;
using I16 = Lanes<int32_t>;

template <class T>
using IntOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

namespace simd_detail {

// The larger or smaller, the second where either is NaN: exactly what x86's instructions do.
template <bool Larger, class T>
PCSEG_INLINE typename Lanes<T>::Register choose(typename Lanes<T>::Register a, typename Lanes<T>::Register b) {
  using R [[maybe_unused]] = typename Lanes<T>::Register;
#if defined(__AVX512F__)  // masked forms: gcc 12 warns about the others (its bug 105593)
  if constexpr (std::is_same_v<T, float>)
    return (R)(Larger ? _mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b)
                      : _mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b));
  if constexpr (std::is_same_v<T, double>)
    return (R)(Larger ? _mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b)
                      : _mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b));
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>)
    return (R)(Larger ? _mm256_max_ps((__m256)a, (__m256)b) : _mm256_min_ps((__m256)a, (__m256)b));
  if constexpr (std::is_same_v<T, double>)
    return (R)(Larger ? _mm256_max_pd((__m256d)a, (__m256d)b) : _mm256_min_pd((__m256d)a, (__m256d)b));
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>)
    return (R)(Larger ? _mm_max_ps((__m128)a, (__m128)b) : _mm_min_ps((__m128)a, (__m128)b));
  if constexpr (std::is_same_v<T, double>)
    return (R)(Larger ? _mm_max_pd((__m128d)a, (__m128d)b) : _mm_min_pd((__m128d)a, (__m128d)b));
#endif
  if constexpr (Larger) return a > b ? a : b;
  return a < b ? a : b;
}

// of[s][lane] = lane ^ 2^s
template <class I>
struct Butterfly {
  I of[4][kLaneCount];
  constexpr Butterfly() : of{} {
    for (int s = 0; s < 4; ++s)
      for (int lane = 0; lane < kLaneCount; ++lane) of[s][lane] = static_cast<I>(lane ^ (1 << s));
  }
};
template <class I>
constexpr Butterfly<I> kButterfly;

template <bool Largest, class T>
PCSEG_INLINE T reduce(Lanes<T> a) {
  using Order = typename Lanes<IntOf<T>>::Register;
  for (int i = 1; i < a.kCount; ++i) a.v[0] = choose<Largest, T>(a.v[0], a.v[i]);
  for (int s = 3; s >= 0; --s) {
    if (2 << s > a.kRegisterLanes) continue;
    Order order;
    std::memcpy(&order, kButterfly<IntOf<T>>.of[s], kRegisterBytes);
    a.v[0] = choose<Largest, T>(a.v[0], __builtin_shuffle(a.v[0], order));
  }
  return a.v[0][0];
}

}  // namespace simd_detail

template <class T>
PCSEG_INLINE Lanes<T> operator+(Lanes<T> a, Lanes<T> b) {
  for (int i = 0; i < a.kCount; ++i) a.v[i] += b.v[i];
  return a;
}
template <class T>
PCSEG_INLINE Lanes<T> operator-(Lanes<T> a, Lanes<T> b) {
  for (int i = 0; i < a.kCount; ++i) a.v[i] -= b.v[i];
  return a;
}
template <class T>
PCSEG_INLINE Lanes<T> operator*(Lanes<T> a, Lanes<T> b) {
  for (int i = 0; i < a.kCount; ++i) a.v[i] *= b.v[i];
  return a;
}
// The second operand where either is NaN.
template <class T>
PCSEG_INLINE Lanes<T> min(Lanes<T> a, Lanes<T> b) {
  for (int i = 0; i < a.kCount; ++i) a.v[i] = simd_detail::choose<false, T>(a.v[i], b.v[i]);
  return a;
}
template <class T>
PCSEG_INLINE Lanes<T> max(Lanes<T> a, Lanes<T> b) {
  for (int i = 0; i < a.kCount; ++i) a.v[i] = simd_detail::choose<true, T>(a.v[i], b.v[i]);
  return a;
}
// a * b + c, fused where the instruction set can: not for values that must agree between instruction sets.
template <class T>
PCSEG_INLINE Lanes<T> multiply_add(Lanes<T> a, Lanes<T> b, Lanes<T> c) {
  using R = typename Lanes<T>::Register;
  for (int i = 0; i < a.kCount; ++i) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) c.v[i] = (R)_mm512_fmadd_ps((__m512)a.v[i], (__m512)b.v[i], (__m512)c.v[i]);
    if constexpr (std::is_same_v<T, double>)
      c.v[i] = (R)_mm512_fmadd_pd((__m512d)a.v[i], (__m512d)b.v[i], (__m512d)c.v[i]);
#elif defined(__FMA__)
    if constexpr (std::is_same_v<T, float>) c.v[i] = (R)_mm256_fmadd_ps((__m256)a.v[i], (__m256)b.v[i], (__m256)c.v[i]);
    if constexpr (std::is_same_v<T, double>)
      c.v[i] = (R)_mm256_fmadd_pd((__m256d)a.v[i], (__m256d)b.v[i], (__m256d)c.v[i]);
#else
    c.v[i] = (R)(a.v[i] * b.v[i] + c.v[i]);
#endif
  }
  return c;
}
template <class T>
PCSEG_INLINE Lanes<T> square_root(Lanes<T> a) {
  for (int i = 0; i < a.kCount; ++i) {
    using R [[maybe_unused]] = typename Lanes<T>::Register;
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) a.v[i] = (R)_mm512_maskz_sqrt_ps(0xffff, (__m512)a.v[i]);
    if constexpr (std::is_same_v<T, double>) a.v[i] = (R)_mm512_maskz_sqrt_pd(0xff, (__m512d)a.v[i]);
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>) a.v[i] = (R)_mm256_sqrt_ps((__m256)a.v[i]);
    if constexpr (std::is_same_v<T, double>) a.v[i] = (R)_mm256_sqrt_pd((__m256d)a.v[i]);
#elif defined(__SSE2__)
    if constexpr (std::is_same_v<T, float>) a.v[i] = (R)_mm_sqrt_ps((__m128)a.v[i]);
    if constexpr (std::is_same_v<T, double>) a.v[i] = (R)_mm_sqrt_pd((__m128d)a.v[i]);
#else
    for (int lane = 0; lane < a.kRegisterLanes; ++lane) a.v[i][lane] = std::sqrt(a.v[i][lane]);
#endif
  }
  return a;
}

enum class Compare { less, less_equal, equal };

namespace simd_detail {

template <Compare C, class R>
PCSEG_INLINE auto where(R a, R b) {  // all bits of a lane where it holds
  if constexpr (C == Compare::less) return a < b;
  if constexpr (C == Compare::less_equal) return a <= b;
  if constexpr (C == Compare::equal) return a == b;
}

#if defined(__AVX512F__)
template <Compare C, class T>
PCSEG_INLINE Mask register_mask(typename Lanes<T>::Register a, typename Lanes<T>::Register b) {
  constexpr int kReal = C == Compare::less ? _CMP_LT_OQ : C == Compare::equal ? _CMP_EQ_OQ : _CMP_LE_OQ;
  constexpr auto kInt = C == Compare::less ? _MM_CMPINT_LT : C == Compare::equal ? _MM_CMPINT_EQ : _MM_CMPINT_LE;
  if constexpr (std::is_same_v<T, float>) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, kReal);
  if constexpr (std::is_same_v<T, double>) return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, kReal);
  if constexpr (std::is_same_v<T, int32_t>) return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, kInt);
  if constexpr (std::is_same_v<T, int64_t>) return _mm512_cmp_epi64_mask((__m512i)a, (__m512i)b, kInt);
}
#else
template <Compare C, class T>
PCSEG_INLINE Mask register_mask(typename Lanes<T>::Register a, typename Lanes<T>::Register b) {
  const auto all = where<C>(a, b);
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return static_cast<Mask>(_mm256_movemask_ps((__m256)all));
  return static_cast<Mask>(_mm256_movemask_pd((__m256d)all));
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) return static_cast<Mask>(_mm_movemask_ps((__m128)all));
  return static_cast<Mask>(_mm_movemask_pd((__m128d)all));
#else
  Mask mask = 0;
  for (int lane = 0; lane < Lanes<T>::kRegisterLanes; ++lane) mask |= static_cast<Mask>(all[lane] & 1) << lane;
  return mask;
#endif
}
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// of[mask]: the lanes in mask, in order; a permutation that moves them to the front.
struct KeptOctets {
  uint8_t of[256][8];
  constexpr KeptOctets() : of{} {
    for (int mask = 0; mask < 256; ++mask)
      for (int lane = 0, n = 0; lane < 8; ++lane)
        if (mask >> lane & 1) of[mask][n++] = static_cast<uint8_t>(lane);
  }
};
constexpr KeptOctets kKeptOctets;
#endif

}  // namespace simd_detail

// Which lanes satisfy a < b, a <= b, a == b; a NaN satisfies none.
template <Compare C, class T>
PCSEG_INLINE Mask compare(Lanes<T> a, Lanes<T> b) {
  Mask mask = 0;
  for (int i = 0; i < a.kCount; ++i)
    mask |= simd_detail::register_mask<C, T>(a.v[i], b.v[i]) << (i * a.kRegisterLanes);
  return mask;
}
template <class T>
PCSEG_INLINE Mask less(Lanes<T> a, Lanes<T> b) {
  return compare<Compare::less>(a, b);
}
template <class T>
PCSEG_INLINE Mask less_equal(Lanes<T> a, Lanes<T> b) {
  return compare<Compare::less_equal>(a, b);
}
template <class T>
PCSEG_INLINE Mask equal(Lanes<T> a, Lanes<T> b) {
  return compare<Compare::equal>(a, b);
}

// a where it is below infinity, `otherwise` elsewhere.
template <class T>
PCSEG_INLINE Lanes<T> finite_or(Lanes<T> a, T otherwise) {
  const Lanes<T> infinity = Lanes<T>::fill(std::numeric_limits<T>::infinity()), other = Lanes<T>::fill(otherwise);
  for (int i = 0; i < a.kCount; ++i) a.v[i] = a.v[i] < infinity.v[i] ? a.v[i] : other.v[i];
  return a;
}
// a in the lanes of mask, `otherwise` elsewhere.
template <class T>
PCSEG_INLINE Lanes<T> keep(Mask mask, Lanes<T> a, T otherwise) {
  static constexpr IntOf<T> kBits[kLaneCount] = {1,     1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                                 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const Lanes<IntOf<T>> bits = Lanes<IntOf<T>>::load(kBits), masks = Lanes<IntOf<T>>::fill(static_cast<IntOf<T>>(mask));
  const Lanes<T> other = Lanes<T>::fill(otherwise);
  for (int i = 0; i < a.kCount; ++i) a.v[i] = (bits.v[i] & masks.v[i]) != 0 ? a.v[i] : other.v[i];
  return a;
}
// a with lane `lane` replaced.
template <class T>
PCSEG_INLINE Lanes<T> replace(Lanes<T> a, int lane, T x) {
  const Lanes<IntOf<T>> here = Lanes<IntOf<T>>::fill(lane), lanes = Lanes<IntOf<T>>::iota();
  const Lanes<T> other = Lanes<T>::fill(x);
  for (int i = 0; i < a.kCount; ++i) a.v[i] = lanes.v[i] == here.v[i] ? other.v[i] : a.v[i];
  return a;
}

// count + 1 in the lanes where a > b, count elsewhere.
template <class T>
PCSEG_INLINE Lanes<IntOf<T>> count_greater(Lanes<IntOf<T>> count, Lanes<T> a, Lanes<T> b) {
  for (int i = 0; i < a.kCount; ++i) {
#if defined(__AVX512F__)
    using R = typename Lanes<IntOf<T>>::Register;
    const Mask mask = simd_detail::register_mask<Compare::less, T>(b.v[i], a.v[i]);
    const __m512i old = (__m512i)count.v[i];
    if constexpr (sizeof(T) == 4)
      count.v[i] = (R)_mm512_mask_add_epi32(old, static_cast<__mmask16>(mask), old, _mm512_set1_epi32(1));
    else
      count.v[i] = (R)_mm512_mask_add_epi64(old, static_cast<__mmask8>(mask), old, _mm512_set1_epi64(1));
#else
    count.v[i] -= a.v[i] > b.v[i];
#endif
  }
  return count;
}
// The same where (a, i) > (b, j) as pairs.
template <class T>
PCSEG_INLINE Lanes<IntOf<T>> count_greater(Lanes<IntOf<T>> count, Lanes<T> a, Lanes<T> b, Lanes<IntOf<T>> i,
                                           Lanes<IntOf<T>> j) {
  for (int r = 0; r < a.kCount; ++r) count.v[r] -= (a.v[r] > b.v[r]) | ((a.v[r] == b.v[r]) & (i.v[r] > j.v[r]));
  return count;
}

// The value of 16 consecutive int32, as wide as T.
template <class T>
PCSEG_INLINE Lanes<IntOf<T>> load_ints(const int32_t* p) {
  if constexpr (sizeof(T) == 4) {
    return Lanes<int32_t>::load(p);
  } else {
    int64_t wide[kLaneCount];
    for (int i = 0; i < kLaneCount; ++i) wide[i] = p[i];
    return Lanes<int64_t>::load(wide);
  }
}

// Lane by lane, the lesser of the pairs (a, i) and (b, j) to (a, i); it stays where b is a NaN.
template <class T>
PCSEG_INLINE void take_lesser(Lanes<T>& a, Lanes<IntOf<T>>& i, Lanes<T> b, Lanes<IntOf<T>> j) {
  for (int r = 0; r < a.kCount; ++r) {
#if defined(__AVX512F__)
    using simd_detail::register_mask;
    const Mask lesser = register_mask<Compare::less, T>(b.v[r], a.v[r]) |
                        (register_mask<Compare::equal, T>(b.v[r], a.v[r]) &
                         register_mask<Compare::less, IntOf<T>>(j.v[r], i.v[r]));
    using R = typename Lanes<T>::Register;
    using I = typename Lanes<IntOf<T>>::Register;
    if constexpr (sizeof(T) == 4) {
      a.v[r] = (R)_mm512_mask_mov_ps((__m512)a.v[r], static_cast<__mmask16>(lesser), (__m512)b.v[r]);
      i.v[r] = (I)_mm512_mask_mov_epi32((__m512i)i.v[r], static_cast<__mmask16>(lesser), (__m512i)j.v[r]);
    } else {
      a.v[r] = (R)_mm512_mask_mov_pd((__m512d)a.v[r], static_cast<__mmask8>(lesser), (__m512d)b.v[r]);
      i.v[r] = (I)_mm512_mask_mov_epi64((__m512i)i.v[r], static_cast<__mmask8>(lesser), (__m512i)j.v[r]);
    }
#else
    const auto lesser = (b.v[r] < a.v[r]) | ((b.v[r] == a.v[r]) & (j.v[r] < i.v[r]));
    a.v[r] = lesser ? b.v[r] : a.v[r];
    i.v[r] = lesser ? j.v[r] : i.v[r];
#endif
  }
}

template <class T>
PCSEG_INLINE T smallest(Lanes<T> a) {
  return simd_detail::reduce<false>(a);
}
template <class T>
PCSEG_INLINE T largest(Lanes<T> a) {
  return simd_detail::reduce<true>(a);
}

// The lanes in mask, in order, from p on. Writes a whole Lanes: what lies beyond the last kept lane is overwritten too.
template <class T>
PCSEG_INLINE void compress(Mask mask, Lanes<T> a, T* p) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), (__m512i)a.v[0]));
  } else {
    const auto low = static_cast<__mmask8>(mask), high = static_cast<__mmask8>(mask >> 8);
    _mm512_storeu_si512(p, _mm512_maskz_compress_epi64(low, (__m512i)a.v[0]));
    _mm512_storeu_si512(p + __builtin_popcount(low), _mm512_maskz_compress_epi64(high, (__m512i)a.v[1]));
  }
#else
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    for (int i = 0; i < 2; ++i) {
      const Mask octet = mask >> (8 * i) & 0xff;
      const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)simd_detail::kKeptOctets.of[octet]));
      _mm256_storeu_si256((__m256i*)p, _mm256_permutevar8x32_epi32((__m256i)a.v[i], order));
      p += __builtin_popcount(octet);
    }
    return;
  }
#endif
  T x[kLaneCount];
  a.store(x);
  for (; mask != 0; mask &= mask - 1) *p++ = x[__builtin_ctz(mask)];
#endif
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
