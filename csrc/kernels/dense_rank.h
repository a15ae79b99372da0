// Dense ranks of integer keys without a sort or a hash. Included by kernel sources only: everything here lives in their
// instruction set's namespace.
//
// The distinct keys are the leaves of a tree of 64-bit occupancy words: a word holds which of 64 consecutive children
// exist, and the number of bits set before a bit is its rank in its level. The top level is indexed directly; below it
// only words that exist are stored. So ranks come out in key order, memory is O(n) whatever the range of the keys, and
// the cost is one look-up a level: one level where keys are dense, one more for each factor of 64.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "parallel.h"

namespace pcseg::PCSEG_ISA {
namespace {

struct OccupancyWord {
  uint64_t bits;
  uint64_t before;  // bits set in all earlier words of the level

  int64_t rank(uint64_t bit) const { return static_cast<int64_t>(before + std::popcount(bits & ((1ull << bit) - 1))); }
};

using OccupancyLevel = std::vector<OccupancyWord>;

// Most points find their bit set already, so a plain read saves most of the locked writes.
template <bool shared>
inline void set_bit(OccupancyWord& word, uint64_t bit) {
  const uint64_t mask = 1ull << bit;
  if constexpr (shared) {
    std::atomic_ref<uint64_t> bits(word.bits);
    if (!(bits.load(std::memory_order_relaxed) & mask)) bits.fetch_or(mask, std::memory_order_relaxed);
  } else {
    word.bits |= mask;
  }
}

// Fills in `before`; returns the number of bits set.
inline int64_t count_level(OccupancyLevel& level, const Parallel& parallel) {
  constexpr int64_t block = 16384;
  const int64_t words = static_cast<int64_t>(level.size()), blocks = (words + block - 1) / block;
  std::vector<uint64_t> before(blocks + 1, 0);
  parallel.ranges(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t w = b * block, last = std::min(words, w + block); w < last; ++w)
        before[b + 1] += std::popcount(level[w].bits);
  });
  for (int64_t b = 0; b < blocks; ++b) before[b + 1] += before[b];
  parallel.ranges(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      uint64_t sum = before[b];
      for (int64_t w = b * block, last = std::min(words, w + block); w < last; ++w) {
        level[w].before = sum;
        sum += std::popcount(level[w].bits);
      }
    }
  });
  return static_cast<int64_t>(before[blocks]);
}

template <bool shared, class Fill>
int64_t dense_rank_with(int64_t* keys, int64_t n, uint64_t bound, const Parallel& parallel, const Fill& fill) {
  constexpr int64_t grain = 8192, step = 1024;
  const uint64_t most_words = static_cast<uint64_t>(n) + 1024;
  int level = 0;
  while (((bound - 1) >> (6 * (level + 1))) >= most_words) ++level;

  const int top = 6 * (level + 1);
  OccupancyLevel words(((bound - 1) >> top) + 1);
  const auto digit = [](int64_t key, int at) { return (static_cast<uint64_t>(key) >> (6 * at)) & 63; };
  parallel.ranges(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += step) {
      const int64_t last = std::min(end, first + step);
      fill(first, last);
      for (int64_t i = first; i < last; ++i)
        set_bit<shared>(words[static_cast<uint64_t>(keys[i]) >> top], digit(keys[i], level));
    }
  });

  const std::unique_ptr<uint32_t[]> word_of(level > 0 ? new uint32_t[n] : nullptr);
  for (bool at_top = true;; at_top = false) {
    const int64_t count = count_level(words, parallel);
    const auto word = [&](int64_t i) -> const OccupancyWord& {
      return words[at_top ? static_cast<uint64_t>(keys[i]) >> top : word_of[i]];
    };
    if (level == 0) {
      parallel.ranges(n, grain, [&](int64_t begin, int64_t end) {
        if (at_top)
          for (int64_t i = begin; i < end; ++i)
            keys[i] = words[static_cast<uint64_t>(keys[i]) >> 6].rank(digit(keys[i], 0));
        else
          for (int64_t i = begin; i < end; ++i) keys[i] = words[word_of[i]].rank(digit(keys[i], 0));
      });
      return count;
    }
    OccupancyLevel below(count);
    parallel.ranges(n, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t rank = word(i).rank(digit(keys[i], level));
        word_of[i] = static_cast<uint32_t>(rank);
        set_bit<shared>(below[rank], digit(keys[i], level - 1));
      }
    });
    words = std::move(below);
    --level;
  }
}

// Replaces n > 0 keys in [0, bound), bound < 2^63, n < 2^32, by their ranks among the distinct keys; returns how many
// there are. fill(begin, end) computes the keys of a range before they are first read.
template <class Fill>
int64_t dense_rank(int64_t* keys, int64_t n, uint64_t bound, const Parallel& parallel, const Fill& fill) {
  return parallel.threads() == 1 ? dense_rank_with<false>(keys, n, bound, parallel, fill)
                                 : dense_rank_with<true>(keys, n, bound, parallel, fill);
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
