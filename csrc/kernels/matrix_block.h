// Vectors as wide as the instruction set's registers, and the small matrix product that fused kernels end in.
//
// Everything here is compiled once per instruction set, so it lives in PCSEG_ISA's unnamed namespace: the linker must
// never merge two versions.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pcseg::PCSEG_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kPanelVectors = 4, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kPanelVectors = 2, kRegisters = 16;
#else
constexpr int kVectorBytes = 16, kPanelVectors = 2, kRegisters = 16;
#endif
constexpr int kPanelRows = 6;  // 6 x kPanelVectors sums fill the registers and leave room for their factors

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kPanelColumns = kPanelVectors* kLanes<T>;

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

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

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

// c[r][0 .. V vectors) += sum over d < depth of a[r][d * a_step] * b[d * b_stride + 0 .. V vectors), for R rows.
template <class T>
using BlockProduct = void (*)(const T* const* a, int64_t a_step, const T* b, int64_t b_stride, int64_t depth,
                              T* const* c);
template <class T, int R, int V>
void block_product(const T* const* a, int64_t a_step, const T* b, int64_t b_stride, int64_t depth, T* const* c) {
  Vector<T> sum[R][V];
  const T* row[R];
  for (int r = 0; r < R; ++r) {
    row[r] = a[r];
    for (int v = 0; v < V; ++v) sum[r][v] = load(c[r] + v * kLanes<T>);
  }
  for (int64_t d = 0; d < depth; ++d, b += b_stride) {
    Vector<T> column[V];
    for (int v = 0; v < V; ++v) column[v] = load(b + v * kLanes<T>);
    for (int r = 0; r < R; ++r) {
      const Vector<T> factor = broadcast(row[r][d * a_step]);
      for (int v = 0; v < V; ++v) sum[r][v] = multiply_add<T>(factor, column[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(c[r] + v * kLanes<T>, sum[r][v]);
}

template <class T, int... I>
BlockProduct<T> block_product_of(int rows, int vectors, std::integer_sequence<int, I...>) {
  static constexpr BlockProduct<T> table[] = {&block_product<T, I / kPanelVectors + 1, I % kPanelVectors + 1>...};
  return table[(rows - 1) * kPanelVectors + vectors - 1];
}

// The product above for any number of rows, `a(r)` and `c(r)` giving their addresses; at most kPanelVectors vectors.
template <class T, class A, class C>
void product(int64_t rows, A a, int64_t a_step, const T* b, int64_t b_stride, int vectors, int64_t depth, C c) {
  for (int64_t first = 0; first < rows; first += kPanelRows) {
    const int n = static_cast<int>(std::min<int64_t>(kPanelRows, rows - first));
    const T* a_rows[kPanelRows];
    T* c_rows[kPanelRows];
    for (int r = 0; r < n; ++r) a_rows[r] = a(first + r), c_rows[r] = c(first + r);
    block_product_of<T>(n, vectors, std::make_integer_sequence<int, kPanelRows * kPanelVectors>())(
        a_rows, a_step, b, b_stride, depth, c_rows);
  }
}

// A (depth, columns) matrix as panels of kPanelColumns columns (the last one narrower, padded with zeros to whole
// vectors), each panel's rows one after the other: what `product` reads without a gap.
template <class T>
class Panels {
 public:
  Panels(int64_t depth, int64_t columns) : depth_(depth), padded_(round_up(columns, kLanes<T>)), columns_(columns) {}
  int64_t size() const { return depth_ * padded_; }
  int64_t padded_columns() const { return padded_; }
  int64_t count() const { return (padded_ + kPanelColumns<T> - 1) / kPanelColumns<T>; }
  int64_t first_column(int64_t panel) const { return panel * kPanelColumns<T>; }
  int64_t width(int64_t panel) const { return std::min<int64_t>(kPanelColumns<T>, padded_ - first_column(panel)); }
  int vectors(int64_t panel) const { return static_cast<int>(width(panel) / kLanes<T>); }
  int64_t offset(int64_t panel) const { return depth_ * first_column(panel); }

  // packed[...] = matrix, element (d, c) at matrix[d * row_step + c * column_step].
  void pack(const T* matrix, int64_t row_step, int64_t column_step, T* packed) const {
    for (int64_t panel = 0; panel < count(); ++panel) {
      const int64_t first = first_column(panel), w = width(panel), real = std::min(w, columns_ - first);
      for (int64_t d = 0; d < depth_; ++d, packed += w) {
        for (int64_t c = 0; c < real; ++c) packed[c] = matrix[d * row_step + (first + c) * column_step];
        for (int64_t c = real; c < w; ++c) packed[c] = T(0);
      }
    }
  }

 private:
  int64_t depth_, padded_, columns_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
