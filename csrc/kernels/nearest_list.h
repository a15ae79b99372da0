// Choosing the best k candidates of a search, by (squared distance, row).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "simd.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int kMaxRanked = 128;  // candidates that ranking handles
constexpr int kMaxRankedK = 64;  // neighbours: where more are wanted, candidates are sorted

// Ranks of 16 * Blocks candidates among all `count`: how many come before each. Without Ties equal distances share a rank.
template <class T, int Blocks, bool Ties>
PCSEG_INLINE void rank_blocks(const T* sq_dist, const int32_t* row, int count, int first, IntOf<T>* rank) {
  Lanes<T> mine[Blocks];
  Lanes<IntOf<T>> my_row[Blocks], my_rank[Blocks];
  for (int b = 0; b < Blocks; ++b) {
    mine[b] = Lanes<T>::load(sq_dist + first + kLaneCount * b);
    my_rank[b] = Lanes<IntOf<T>>::fill(0);
    if constexpr (Ties) my_row[b] = load_ints<T>(row + first + kLaneCount * b);
  }
  for (int i = 0; i < count; ++i) {
    const Lanes<T> other = Lanes<T>::fill(sq_dist[i]);
    for (int b = 0; b < Blocks; ++b)
      if constexpr (Ties)
        my_rank[b] = count_greater<T>(my_rank[b], mine[b], other, my_row[b], Lanes<IntOf<T>>::fill(row[i]));
      else
        my_rank[b] = count_greater<T>(my_rank[b], mine[b], other);
  }
  for (int b = 0; b < Blocks; ++b) my_rank[b].store(rank + first + kLaneCount * b);
}

template <class T, bool Ties>
PCSEG_INLINE bool rank_and_place(const T* sq_dist, const int32_t* row, int count, T* best, int32_t* best_row) {
  alignas(64) IntOf<T> rank[kMaxRanked];
  int first = 0;
  for (; count - first > kLaneCount; first += 2 * kLaneCount)
    rank_blocks<T, 2, Ties>(sq_dist, row, count, first, rank);
  if (first < count) rank_blocks<T, 1, Ties>(sq_dist, row, count, first, rank);
  int64_t sum = 0;
  for (int i = 0; i < count; ++i) {
    best[rank[i]] = sq_dist[i];
    best_row[rank[i]] = row[i];
    sum += rank[i];
  }
  return sum == int64_t{count} * (count - 1) / 2;
}

// Sorts `count` <= kMaxRanked candidates into best and best_row, which have room for all. Candidates have room for 32 more.
// `ties` remembers that equal distances were met: they take a slower way, and where there is one there are many.
template <class T>
PCSEG_INLINE void sort_by_rank(T* sq_dist, int32_t* row, int count, bool& ties, T* best, int32_t* best_row) {
  if (count > kMaxRanked) __builtin_unreachable();
  const Lanes<T> none = Lanes<T>::fill(std::numeric_limits<T>::infinity());
  none.store(sq_dist + count);
  none.store(sq_dist + count + kLaneCount);
  if (!ties) ties = !rank_and_place<T, false>(sq_dist, row, count, best, best_row);
  if (ties) rank_and_place<T, true>(sq_dist, row, count, best, best_row);
}

// The best k so far of a stream of candidates, for any k. A candidate enters if it comes before the worst() of k.
template <class T>
class NearestList {
 public:
  // Candidates farther than max_sq_dist never enter.
  void reset(int64_t k, T max_sq_dist) {
    k_ = k;
    count_ = 0;
    limit_ = max_sq_dist;
    limit_row_ = std::numeric_limits<int32_t>::max();
    ties_ = false;
    const int64_t room = (k <= kMaxRankedK ? kMaxRanked : 2 * k + 256) + 2 * kLaneCount;
    if (static_cast<int64_t>(sq_dist_.size()) < room) {
      for (auto* v : {&sq_dist_, &other_sq_dist_}) v->resize(room);
      for (auto* v : {&row_, &other_row_}) v->resize(room);
    }
  }

  // Whether a candidate with at least this distance and row could enter.
  T limit() const { return limit_; }
  int32_t limit_row() const { return limit_row_; }

  // Sixteen candidates at once; a NaN or infinite distance never enters.
  PCSEG_INLINE void push(Lanes<T> sq_dist, const int32_t* rows) {
    const Lanes<T> limit = Lanes<T>::fill(limit_);
    const Lanes<int32_t> row = Lanes<int32_t>::load(rows);
    const Mask mask = less(sq_dist, limit) | (equal(sq_dist, limit) & less(row, Lanes<int32_t>::fill(limit_row_)));
    compress(mask, sq_dist, sq_dist_.data() + count_);
    compress(mask, row, row_.data() + count_);
    count_ += __builtin_popcount(mask);
    const int64_t full = k_ <= kMaxRankedK ? kMaxRanked - kLaneCount : 2 * k_ + 256 - kLaneCount;
    if (count_ > full) shrink();
  }

  // Sorts what is there; afterwards the first size() entries are the result.
  void finish() {
    if (k_ <= kMaxRankedK)
      rank();
    else
      sort();
  }
  int64_t size() const { return std::min(count_, k_); }
  const T* sq_dist() const { return sq_dist_.data(); }
  const int32_t* row() const { return row_.data(); }

 private:
  struct Key {
    T sq_dist;
    int32_t row;
    bool operator<(const Key& o) const { return sq_dist < o.sq_dist || (sq_dist == o.sq_dist && row < o.row); }
  };

  void shrink() {
    finish();
    if (count_ < k_) return;
    count_ = k_;
    limit_ = sq_dist_[k_ - 1];
    limit_row_ = row_[k_ - 1];
  }

  void rank() {
    sort_by_rank(sq_dist_.data(), row_.data(), static_cast<int>(count_), ties_, other_sq_dist_.data(),
                 other_row_.data());
    sq_dist_.swap(other_sq_dist_);
    row_.swap(other_row_);
  }

  void sort() {
    keys_.resize(count_);
    for (int64_t i = 0; i < count_; ++i) keys_[i] = {sq_dist_[i], row_[i]};
    if (count_ > k_) std::nth_element(keys_.begin(), keys_.begin() + k_, keys_.end());
    std::sort(keys_.begin(), keys_.begin() + std::min(count_, k_));
    for (int64_t i = 0; i < count_; ++i) sq_dist_[i] = keys_[i].sq_dist, row_[i] = keys_[i].row;
  }

  int64_t k_ = 0, count_ = 0;
  T limit_ = 0;
  int32_t limit_row_ = 0;
  bool ties_ = false;
  std::vector<T> sq_dist_, other_sq_dist_;
  std::vector<int32_t> row_, other_row_;
  std::vector<Key> keys_;
};

}  // namespace
}  // namespace pcseg::PCSEG_ISA
