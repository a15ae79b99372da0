// Dense ranks of integer keys without a sort or a hash. Included by kernel sources only: everything here lives in their
// instruction set's namespace.
//
// The distinct keys are the leaves of a tree of 64-bit occupancy words: a word holds which of 64 consecutive children
// exist, and the number of bits set before a bit is its rank in its level. The top level is indexed directly; below it
// only words that exist are stored. So ranks come out in key order, memory is O(n) whatever the range of the keys, and
// the cost is one look-up a level: one level where keys are dense, one more for each factor of 64.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "aligned_array.h"
#include "parallel.h"

namespace pcseg::PCSEG_ISA {
namespace {

struct OccupancyWord {
  uint64_t bits;
  uint64_t before;  // bits set in all earlier words of the level

  int64_t rank(uint64_t bit) const { return static_cast<int64_t>(before + std::popcount(bits & ((1ull << bit) - 1))); }
};

// One level of the tree. Parts of the keys set bits in copies of their own: two threads that write to the same cache
// lines would wait for each other.
class OccupancyLevel {
 public:
  OccupancyLevel(int64_t words, int64_t parts) : size_(words), parts_(parts), bits_(words * parts), words_(words) {}

  // The cleared bits of a part: child c is bit c % 64 of word c / 64.
  uint64_t* clear(int64_t part) {
    uint64_t* const bits = bits_.data() + part * size_;
    std::fill_n(bits, size_, 0);
    return bits;
  }
  const OccupancyWord& operator[](uint64_t word) const { return words_[static_cast<int64_t>(word)]; }

  // Brings the parts together once all bits are set; returns how many there are.
  int64_t count(const Parallel& parallel) {
    constexpr int64_t grain = 1 << 16;  // fewer words are not worth a second thread
    const int64_t blocks = (size_ + grain - 1) / grain;
    std::vector<uint64_t> before(blocks + 1, 0);
    const auto for_words = [&](auto&& f) {
      parallel.ranges(blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) f(b, b * grain, std::min(size_, (b + 1) * grain));
      });
    };
    for_words([&](int64_t block, int64_t begin, int64_t end) {
      uint64_t sum = 0;
      for (int64_t w = begin; w < end; ++w) {
        uint64_t bits = bits_[w];
        for (int64_t part = 1; part < parts_; ++part) bits |= bits_[part * size_ + w];
        words_[w] = {bits, sum};
        sum += static_cast<uint64_t>(std::popcount(bits));
      }
      before[block + 1] = sum;
    });
    if (blocks == 1) return static_cast<int64_t>(before[1]);
    for (int64_t b = 0; b < blocks; ++b) before[b + 1] += before[b];
    for_words([&](int64_t block, int64_t begin, int64_t end) {
      for (int64_t w = begin; w < end; ++w) words_[w].before += before[block];
    });
    return static_cast<int64_t>(before[blocks]);
  }

 private:
  int64_t size_, parts_;
  AlignedArray<uint64_t> bits_;
  AlignedArray<OccupancyWord> words_;
};

inline void set_bit(uint64_t* bits, uint64_t child) { bits[child >> 6] |= 1ull << (child & 63); }

// Replaces n > 0 keys in [0, bound), bound < 2^63, n < 2^32, by their ranks among the distinct keys; returns how many
// there are. fill(begin, end) computes the keys of a range before they are first read.
template <class Fill>
int64_t dense_rank(int64_t* keys, int64_t n, uint64_t bound, const Parallel& parallel, const Fill& fill) {
  constexpr int64_t step = 1024, most_parts = 8;
  const uint64_t most_words = static_cast<uint64_t>(n) + 1024;
  int level = 0;
  while (((bound - 1) >> (6 * (level + 1))) >= most_words) ++level;

  const int64_t parts = std::clamp<int64_t>(n / 8192, 1, std::min<int64_t>(parallel.threads(), most_parts));
  const auto for_parts = [&](auto&& f) {
    parallel.ranges(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) f(part, n * part / parts, n * (part + 1) / parts);
    });
  };
  const auto child = [&](int64_t key, int at) { return static_cast<uint64_t>(key) >> (6 * at); };

  OccupancyLevel words(static_cast<int64_t>(child(static_cast<int64_t>(bound - 1), level + 1)) + 1, parts);
  for_parts([&](int64_t part, int64_t begin, int64_t end) {
    uint64_t* const bits = words.clear(part);
    for (int64_t first = begin; first < end; first += step) {
      const int64_t last = std::min(end, first + step);
      fill(first, last);
      for (int64_t i = first; i < last; ++i) set_bit(bits, child(keys[i], level));
    }
  });

  AlignedArray<uint32_t> word_of(level > 0 ? n : 0);
  for (bool at_top = true;; at_top = false) {
    const int64_t count = words.count(parallel);
    const auto rank = [&](int64_t i) {
      const uint64_t at = child(keys[i], level);
      return words[at_top ? at >> 6 : word_of[i]].rank(at & 63);
    };
    if (level == 0) {
      for_parts([&](int64_t, int64_t begin, int64_t end) {
        if (at_top)
          for (int64_t i = begin; i < end; ++i) keys[i] = words[child(keys[i], 1)].rank(child(keys[i], 0) & 63);
        else
          for (int64_t i = begin; i < end; ++i) keys[i] = rank(i);
      });
      return count;
    }
    OccupancyLevel below(count, parts);
    for_parts([&](int64_t part, int64_t begin, int64_t end) {
      uint64_t* const bits = below.clear(part);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t word = rank(i);
        word_of[i] = static_cast<uint32_t>(word);
        set_bit(bits, static_cast<uint64_t>(word) << 6 | (child(keys[i], level - 1) & 63));
      }
    });
    words = std::move(below);
    --level;
  }
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
