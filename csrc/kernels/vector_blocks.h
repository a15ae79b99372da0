// Small rows of channels in whole vectors: loops over them, masks, norms, and the sums of parameters' gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "matrix_block.h"
#include "task_split.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

// f(std::integral_constant<int, n>) for n in 1 .. Most.
template <int Most, int N = 1, class F>
void with_count(int64_t n, const F& f) {
  if constexpr (N < Most)
    if (n > N) return with_count<Most, N + 1>(n, f);
  f(std::integral_constant<int, N>());
}

// f(width), the usual widths as constants: short rows are then copied and added without a loop.
template <class F>
void with_width(int64_t width, const F& f) {
  switch (width) {
    case 4: return f(std::integral_constant<int64_t, 4>());
    case 8: return f(std::integral_constant<int64_t, 8>());
    case 16: return f(std::integral_constant<int64_t, 16>());
    case 32: return f(std::integral_constant<int64_t, 32>());
    default: return f(width);
  }
}

// Vectors of channels and position channels that are worked on at once: their factors and sums stay in registers.
constexpr int kChannelVectors = kPanelVectors, kPositions = 4;

// f(first channel, std::integral_constant<int, vectors>) over a padded row.
template <class T, class F>
void for_channels(int64_t stride, const F& f) {
  for (int64_t c = 0; c < stride; c += kChannelVectors * kLanes<T>)
    with_count<kChannelVectors>((stride - c) / kLanes<T>, [&](auto vectors) { f(c, vectors); });
}

// The sum of the lanes, by halves.
template <class T>
T fold_lanes(Vector<T> v) {
#if defined(__AVX512F__)
  const __m256d lower = _mm512_maskz_extractf64x4_pd(0xff, (__m512d)v, 0);
  const __m256d upper = _mm512_maskz_extractf64x4_pd(0xff, (__m512d)v, 1);
  if constexpr (sizeof(T) == 4) {
    const __m256 eight = (__m256)lower + (__m256)upper;
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
    const __m128 two = four + _mm_movehl_ps(four, four);
    return two[0] + two[1];
  } else {
    const __m256d four = lower + upper;
    const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
    return two[0] + two[1];
  }
#else
  T lanes[kLanes<T>];
  store(lanes, v);
  for (int step = kLanes<T> / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  return lanes[0];
#endif
}

// Which lanes are greater than 0, as bits; and the lanes whose bit is set, else 0.
template <class T>
uint16_t positive_lanes(Vector<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
  else
    return _mm512_cmp_pd_mask((__m512d)v, _mm512_setzero_pd(), _CMP_GT_OQ);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return static_cast<uint16_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_setzero_ps(), _CMP_GT_OQ)));
  else
    return static_cast<uint16_t>(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)v, _mm256_setzero_pd(), _CMP_GT_OQ)));
#else
  int bits = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) bits |= (v[lane] > 0) << lane;
  return static_cast<uint16_t>(bits);
#endif
}
template <class T>
Vector<T> keep_lanes(uint16_t bits, Vector<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vector<T>)_mm512_maskz_mov_ps(bits, (__m512)v);
  else
    return (Vector<T>)_mm512_maskz_mov_pd(static_cast<__mmask8>(bits), (__m512d)v);
#else
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Vector<Bits> bit;
  for (int lane = 0; lane < kLanes<T>; ++lane) bit[lane] = Bits{1} << lane;
  const auto kept = (broadcast(Bits{bits}) & bit) != Vector<Bits>{};
  return kept ? v : Vector<T>{};
#endif
}

// A copy of `values` with zeros to whole vectors.
template <class T>
Buffer<T> padded_copy(const T* values, int64_t count, int64_t stride) {
  Buffer<T> copy(stride);
  std::copy_n(values, count, copy.data());
  std::fill(copy.data() + count, copy.data() + stride, T(0));
  return copy;
}

// A small matrix that blocks of rows are multiplied by; its columns are padded to whole vectors.
template <class T>
class BlockMatrix {
 public:
  // Element (d, c) at matrix[d * row_step + c * column_step]; one of the steps is 1.
  BlockMatrix(const T* matrix, int64_t depth, int64_t columns, int64_t row_step, int64_t column_step)
      : depth_(depth), panels_(depth, columns), packed_(panels_.size()) {
    panels_.pack(matrix, row_step, column_step, packed_.data());
  }
  int64_t columns() const { return panels_.padded_columns(); }

  // out(i) = row(i) @ matrix + start, or without a start where it is null; out(i) has columns() places.
  template <class Row, class Out>
  void multiply(int64_t count, const Row& row, const T* start, const Out& out) const {
    for (int64_t i = 0; i < count && start; ++i)
      for (int64_t c = 0; c < columns(); c += kLanes<T>) store(out(i) + c, load(start + c));
    for (int64_t panel = 0; panel < panels_.count(); ++panel)
      product<T>(
          count, row, 1, packed_.data() + panels_.offset(panel), panels_.width(panel), panels_.vectors(panel), depth_,
          [&](int64_t i) { return out(i) + panels_.first_column(panel); }, start != nullptr);
  }

 private:
  int64_t depth_;
  Panels<T> panels_;
  Buffer<T> packed_;
};

// sums[o] += sum over i < count of grads[i][o] * rows[i], for o < width; rows and sums are padded to `stride`.
template <class T>
void add_weight_gradient(const T* grads, int64_t width, const T* rows, int64_t stride, int64_t count, T* sums) {
  for (int64_t c = 0; c < stride; c += kPanelColumns<T>)
    product<T>(
        width, [&](int64_t o) { return grads + o; }, width, rows + c, stride,
        static_cast<int>(std::min<int64_t>(kPanelColumns<T>, stride - c) / kLanes<T>), count,
        [&](int64_t o) { return sums + o * stride + c; });
}

// sums[o] += sum over i < count of rows[i][o], for dense rows.
template <class T>
void add_columns(const T* rows, int64_t width, int64_t count, T* sums) {
  with_width(width, [&](auto columns) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t o = 0; o < columns; ++o) sums[o] += rows[i * columns + o];
  });
}

// A block of `count` padded rows on the way back through a norm and a ReLU. x is what the norm got; rows hold the
// gradient of the ReLU's result on entry, that result on exit; grad_x, which may be x, becomes the gradient of x.
// shift_sums += gradient of the norm's result, scale_sums += that times x. passed(i, vector, bits): where row i's ReLU
// let something through.
template <class T, int V, class F>
void through_norm(const T* x, T* grad_x, T* rows, int64_t count, int64_t stride, int64_t c, const T* scale,
                  const T* shift, T* scale_sums, T* shift_sums, const F& passed) {
  Vector<T> scales[V], shifts[V], scale_sum[V], shift_sum[V];
  for (int v = 0; v < V; ++v) {
    const int64_t at = c + v * kLanes<T>;
    scales[v] = load(scale + at), shifts[v] = load(shift + at);
    scale_sum[v] = load(scale_sums + at), shift_sum[v] = load(shift_sums + at);
  }
  for (int64_t i = 0; i < count; ++i)
    for (int v = 0; v < V; ++v) {
      const int64_t at = i * stride + c + v * kLanes<T>;
      T* other = rows + at;
      const Vector<T> value = load(x + at), z = multiply_add<T>(scales[v], value, shifts[v]);
      const uint16_t bits = positive_lanes<T>(z);
      const Vector<T> grad = keep_lanes<T>(bits, load(other));
      passed(i, c / kLanes<T> + v, bits);
      shift_sum[v] += grad;
      scale_sum[v] = multiply_add<T>(grad, value, scale_sum[v]);
      store(grad_x + at, scales[v] * grad);
      store(other, z <= Vector<T>{} ? Vector<T>{} : z);
    }
  for (int v = 0; v < V; ++v) {
    store(scale_sums + c + v * kLanes<T>, scale_sum[v]);
    store(shift_sums + c + v * kLanes<T>, shift_sum[v]);
  }
}

// Sums of parameters' gradients, `size` numbers for each chunk of `owners` owners that have `work` rows together; how
// many chunks depends on sizes alone.
template <class T>
class ParameterSums {
 public:
  ParameterSums(int64_t owners, int64_t work, int64_t size)
      : owners_(owners), size_(size), chunks_(gradient_chunks(work, size)), sums_(chunks_) {}

  int64_t chunks() const { return chunks_; }
  int64_t begin(int64_t chunk) const { return owners_ * chunk / chunks_; }
  T* start(int64_t chunk) {
    sums_[chunk].grow(size_);
    std::fill_n(sums_[chunk].data(), size_, T(0));
    return sums_[chunk].data();
  }
  const T* total() {
    T* total = sums_[0].data();
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      const T* sums = sums_[chunk].data();
      for (int64_t i = 0; i < size_; ++i) total[i] += sums[i];
    }
    return total;
  }

 private:
  int64_t owners_, size_, chunks_;
  std::vector<Buffer<T>> sums_;
};

// Rows of a task where nothing is summed over tasks.
constexpr int64_t kTaskRows = 4096;

// f(begin, end, memory) for parts of `owners` owners that have about `work` rows together; memory as in for_tasks.
template <class Make, class F>
void for_parts(int64_t owners, int64_t work, const Parallel& parallel, Make&& make, F&& f) {
  const int64_t part = std::max<int64_t>(1, owners * kTaskRows / (work + 1));
  for_tasks((owners + part - 1) / part, parallel, make, [&](int64_t task, auto& memory) {
    f(task * part, std::min(owners, (task + 1) * part), memory);
  });
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
