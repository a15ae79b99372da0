// Mean and variance of many rows, summed so that neither a large mean nor many rows cost digits.
#pragma once

#include <cstdint>
#include <vector>

#include "vector_blocks.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Count, mean and sum of squared deviations of each channel, joined pairwise (Chan, Golub, LeVeque 1979).
class Moments {
 public:
  explicit Moments(int64_t channels) : mean_(channels, 0.0), squares_(channels, 0.0) {}

  void join(double count, const double* mean, const double* squares) {
    if (count == 0) return;
    const double sum = count_ + count, share = count / sum, cross = count_ * share;
    for (size_t c = 0; c < mean_.size(); ++c) {
      const double difference = mean[c] - mean_[c];
      mean_[c] += share * difference;
      squares_[c] += squares[c] + cross * difference * difference;
    }
    count_ = sum;
  }
  void join(const Moments& other) { join(other.count_, other.mean_.data(), other.squares_.data()); }
  template <class T>
  void write(T* mean, T* var) const {
    for (size_t c = 0; c < mean_.size(); ++c) {
      mean[c] = static_cast<T>(mean_[c]);
      var[c] = static_cast<T>(count_ > 0 ? squares_[c] / count_ : 0);
    }
  }

 private:
  double count_ = 0;
  std::vector<double> mean_, squares_;
};

// What a block of rows adds to the moments: deviations from its first row are summed, in T.
template <class T>
class BlockMoments {
 public:
  BlockMoments(int64_t channels, int64_t stride)
      : channels_(channels), stride_(stride), sums_(2 * stride), mean_(channels), squares_(channels) {}

  // rows (count, stride), padded to whole vectors.
  void join(const T* rows, int64_t count, Moments& moments) {
    for_channels<T>(stride_, [&](int64_t c, auto vectors) {
      Vector<T> first[vectors], sum[vectors] = {}, squares[vectors] = {};
      for (int v = 0; v < vectors; ++v) first[v] = load(rows + c + v * kLanes<T>);
      for (int64_t i = 1; i < count; ++i)
        for (int v = 0; v < vectors; ++v) {
          const Vector<T> x = load(rows + i * stride_ + c + v * kLanes<T>) - first[v];
          sum[v] += x;
          squares[v] = multiply_add<T>(x, x, squares[v]);
        }
      for (int v = 0; v < vectors; ++v) {
        store(&sums_[c + v * kLanes<T>], sum[v]);
        store(&sums_[stride_ + c + v * kLanes<T>], squares[v]);
      }
    });
    const double n = static_cast<double>(count);
    for (int64_t c = 0; c < channels_; ++c) {
      const double sum = sums_[c], squares = sums_[stride_ + c] - sum * sum / n;
      mean_[c] = rows[c] + sum / n;
      squares_[c] = squares < 0 ? 0 : squares;
    }
    moments.join(n, mean_.data(), squares_.data());
  }

 private:
  int64_t channels_, stride_;
  Buffer<T> sums_;
  Buffer<double> mean_, squares_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
