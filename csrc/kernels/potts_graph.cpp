#include "potts_graph.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "aligned_array.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kRowsInTask = 128 * kPottsBlock;

// What becomes of an entry of the lists.
enum Fate : uint8_t {
  nothing,   // no neighbour
  both,      // its other end lists this row too: one edge, which each end takes from its own entry
  one_sided  // the other end is told of it
};

struct Builder {
  const PottsLists& a;
  AlignedArray<uint8_t> fate{a.num_rows * a.width};
  AlignedArray<float> weight{a.num_rows * a.width};  // of the edge
  std::vector<int32_t> degree = std::vector<int32_t>(a.num_blocks() * kPottsBlock, 0);

  bool moves(int64_t row) const { return a.labels[row] < 0; }
  const int64_t* list(int64_t row) const { return a.neighbors + row * a.width; }

  // Place in the list of a row where another first stands, or width.
  int64_t find(int64_t row, int64_t other) const {
    return std::find(list(row), list(row) + a.width, other) - list(row);
  }

  bool judge(int64_t begin, int64_t end) {
    bool inside = true;
    for (int64_t i = begin; i < end; ++i)
      for (int64_t e = 0; e < a.width; ++e) {
        const int64_t j = list(i)[e], entry = i * a.width + e;
        fate[entry] = nothing;
        if (static_cast<uint64_t>(j) >= static_cast<uint64_t>(a.num_rows)) {
          inside &= j == a.num_rows;
          continue;
        }
        // A list that names a row twice: only the first entries meet, so that both ends judge alike.
        const int64_t back = find(i, j) == e ? find(j, i) : a.width;
        fate[entry] = back < a.width ? both : one_sided;
        weight[entry] = a.edge_weight[entry] + (back < a.width ? a.edge_weight[j * a.width + back] : 0.0f);
        if (moves(i)) ++degree[i];
      }
    return inside;
  }

  // f(entry, row, other) for the entries that the other end is told of, row by row.
  template <class F>
  void one_sided_entries(F&& f) const {
    for (int64_t i = 0; i < a.num_rows; ++i)
      for (int64_t entry = i * a.width; entry < (i + 1) * a.width; ++entry)
        if (fate[entry] == one_sided && moves(a.neighbors[entry])) f(entry, i, a.neighbors[entry]);
  }
};

}  // namespace

bool potts_graph(const PottsLists& a, const PottsGraphOutput& out, const Parallel& parallel) {
  Builder build{a};
  std::atomic<bool> inside{true};
  const int64_t blocks = a.num_blocks();
  parallel.ranges(a.num_rows, kRowsInTask, [&](int64_t begin, int64_t end) {
    if (!build.judge(begin, end)) inside = false;
  });
  if (!inside) return false;
  build.one_sided_entries([&](int64_t, int64_t, int64_t j) { ++build.degree[j]; });

  out.first_slot[0] = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const int32_t* degree = build.degree.data() + b * kPottsBlock;
    out.first_slot[b + 1] = out.first_slot[b] + *std::max_element(degree, degree + kPottsBlock);
  }
  int32_t* other = nullptr;
  float* weight = nullptr;
  out.allocate(out.context, out.first_slot[blocks], &other, &weight);

  // From here on degree counts the entries that a row has so far.
  const auto add = [&](int64_t row, int64_t end, float w) {
    const int64_t slot = out.first_slot[row / kPottsBlock] + build.degree[row]++;
    other[slot * kPottsBlock + row % kPottsBlock] = static_cast<int32_t>(end);
    weight[slot * kPottsBlock + row % kPottsBlock] = w;
  };
  parallel.ranges(blocks, kRowsInTask / kPottsBlock, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t place = out.first_slot[b] * kPottsBlock; place < out.first_slot[b + 1] * kPottsBlock; ++place) {
        other[place] = static_cast<int32_t>(b * kPottsBlock + place % kPottsBlock);
        weight[place] = 0;
      }
      for (int64_t i = b * kPottsBlock; i < std::min(a.num_rows, (b + 1) * kPottsBlock); ++i) {
        build.degree[i] = 0;
        for (int64_t entry = i * a.width; build.moves(i) && entry < (i + 1) * a.width; ++entry)
          if (build.fate[entry] != nothing) add(i, a.neighbors[entry], build.weight[entry]);
      }
    }
  });
  build.one_sided_entries([&](int64_t entry, int64_t i, int64_t j) { add(j, i, build.weight[entry]); });
  return true;
}

}  // namespace pcseg::PCSEG_ISA
