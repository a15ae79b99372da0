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
#include "team.h"

namespace pcseg::PCSEG_ISA {
namespace {

struct OccupancyWord {
  uint64_t bits;
  uint64_t before;  // bits set in all earlier words of the level

  int64_t rank(uint64_t bit) const { return static_cast<int64_t>(before + std::popcount(bits & ((1ull << bit) - 1))); }
};

// One level of the tree. Workers set bits in copies of their own: two threads that write to the same cache lines would
// wait for each other.
class OccupancyLevel {
 public:
  OccupancyLevel(int64_t words, int workers) : size_(words), bits_(workers), words_(words) {}

  // The bits of a worker, cleared when it first asks: child c is bit c % 64 of word c / 64.
  uint64_t* bits(int worker) {
    AlignedArray<uint64_t>& bits = bits_[worker];
    if (!bits.data()) {
      bits = AlignedArray<uint64_t>(size_);
      std::fill_n(bits.data(), size_, 0);
    }
    return bits.data();
  }
  const OccupancyWord& operator[](uint64_t word) const { return words_[static_cast<int64_t>(word)]; }

  // Brings the copies together once all bits are set; returns how many there are.
  int64_t count(Team& team) {
    std::vector<const uint64_t*> copies;
    for (const AlignedArray<uint64_t>& bits : bits_)
      if (bits.data()) copies.push_back(bits.data());
    const int64_t blocks = (size_ + block_size - 1) / block_size;
    std::vector<uint64_t> before(blocks + 1, 0);
    team.tasks(blocks, [&](int64_t block, int) { before[block + 1] = count_block(copies, block); });
    if (blocks > 1) {
      for (int64_t b = 0; b < blocks; ++b) before[b + 1] += before[b];
      team.tasks(blocks, [&](int64_t block, int) {
        for (int64_t w = block * block_size; w < block_end(block); ++w) words_[w].before += before[block];
      });
    }
    return static_cast<int64_t>(before[blocks]);
  }

 private:
  static constexpr int64_t block_size = 1 << 15;  // fewer words are not worth a second thread

  int64_t size_;
  std::vector<AlignedArray<uint64_t>> bits_;
  AlignedArray<OccupancyWord> words_;

  int64_t block_end(int64_t block) const { return std::min(size_, (block + 1) * block_size); }

  // Writes the words of a block, their ranks counted from its beginning; returns how many bits they have.
  uint64_t count_block(const std::vector<const uint64_t*>& copies, int64_t block) {
    const int64_t end = block_end(block);
    uint64_t sum = 0;
    for (int64_t w = block * block_size; w < end; ++w) {
      uint64_t bits = copies[0][w];
      for (size_t copy = 1; copy < copies.size(); ++copy) bits |= copies[copy][w];
      words_[w] = {bits, sum};
      sum += static_cast<uint64_t>(std::popcount(bits));
    }
    return sum;
  }
};

inline void set_bit(uint64_t* bits, uint64_t child) { bits[child >> 6] |= 1ull << (child & 63); }

// How many keys there are of each rank, part by part: the first step of a counting sort.
struct RankCounts {
  int64_t keys, parts, ranks = 0;  // part p holds the keys begin(p) .. begin(p + 1)
  AlignedArray<int32_t> counts;  // [part][rank]

  RankCounts(int64_t n, int64_t parts) : keys(n), parts(parts) {}
  int64_t begin(int64_t part) const { return keys * part / parts; }
  int32_t* of(int64_t part) { return counts.data() + part * ranks; }
};

// Replaces n > 0 keys in [0, bound), bound < 2^63, n < 2^31, by their ranks among the distinct keys, and counts them.
// fill(begin, end) computes the keys of a range before they are first read.
template <class Fill>
void dense_rank(int64_t* keys, int64_t n, uint64_t bound, Team& team, const Fill& fill, RankCounts& counted) {
  constexpr int64_t step = 1024, chunk = 16384;
  const uint64_t most_words = static_cast<uint64_t>(n) + 1024;
  int level = 0;
  while (((bound - 1) >> (6 * (level + 1))) >= most_words) ++level;

  const auto for_chunks = [&](auto&& f) {
    team.tasks((n + chunk - 1) / chunk,
               [&](int64_t task, int worker) { f(worker, task * chunk, std::min(n, (task + 1) * chunk)); });
  };
  const auto child = [](int64_t key, int at) { return static_cast<uint64_t>(key) >> (6 * at); };

  OccupancyLevel words(static_cast<int64_t>(child(static_cast<int64_t>(bound - 1), level + 1)) + 1, team.threads());
  for_chunks([&](int worker, int64_t begin, int64_t end) {
    uint64_t* const bits = words.bits(worker);
    for (int64_t first = begin; first < end; first += step) {
      const int64_t last = std::min(end, first + step);
      fill(first, last);
      for (int64_t i = first; i < last; ++i) set_bit(bits, child(keys[i], level));
    }
  });

  AlignedArray<uint32_t> word_of(level > 0 ? n : 0);
  bool at_top = true;
  int64_t count = words.count(team);
  const auto rank = [&](int64_t i) {
    const uint64_t at = child(keys[i], level);
    return words[at_top ? at >> 6 : word_of[i]].rank(at & 63);
  };
  for (; level > 0; --level, at_top = false) {
    OccupancyLevel below(count, team.threads());
    for_chunks([&](int worker, int64_t begin, int64_t end) {
      uint64_t* const bits = below.bits(worker);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t word = rank(i);
        word_of[i] = static_cast<uint32_t>(word);
        set_bit(bits, static_cast<uint64_t>(word) << 6 | (child(keys[i], level - 1) & 63));
      }
    });
    words = std::move(below);
    count = words.count(team);
  }

  counted.ranks = count;
  counted.counts = AlignedArray<int32_t>(counted.parts * count);
  team.tasks(counted.parts, [&](int64_t part, int) {
    int32_t* const counts = counted.of(part);
    std::fill_n(counts, count, 0);
    const int64_t begin = counted.begin(part), end = counted.begin(part + 1);
    const auto take = [&](int64_t i, int64_t rank) {
      keys[i] = rank;
      ++counts[rank];
    };
    if (at_top)
      for (int64_t i = begin; i < end; ++i) take(i, words[child(keys[i], 1)].rank(child(keys[i], 0) & 63));
    else
      for (int64_t i = begin; i < end; ++i) take(i, rank(i));
  });
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
