// Neighbour lists turned into what a descent on a Potts energy walks through.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// Rows of a graph come sixteen at a time.
constexpr int64_t kPottsBlock = 16;

// Every edge at each of its two ends that may move; an edge that both ends list is one, with the sum of its weights. Rows
// that are held have none.
//
// Slot s of block b, first_slot[b] <= s < first_slot[b + 1], has sixteen entries, one for each row of the block: the
// other end and the weight. Where a row has fewer edges than its block has slots: the row itself with weight 0.
struct PottsGraph {
  const int64_t* first_slot;  // (blocks + 1)
  const int32_t* other;       // (slots, 16), below the number of blocks times 16
  const float* weight;        // (slots, 16)
};

// neighbors (num_rows, width) in [0, num_rows], num_rows: none; num_rows < 2^31 - 16. labels[row] >= 0: held.
struct PottsLists {
  const int64_t* neighbors;
  const float* edge_weight;
  const int64_t* labels;
  int64_t num_rows;
  int64_t width;

  int64_t num_blocks() const { return (num_rows + kPottsBlock - 1) / kPottsBlock; }
};

// first_slot is written; allocate is called once, by the calling thread, when the number of slots is known.
struct PottsGraphOutput {
  int64_t* first_slot;
  void (*allocate)(void* context, int64_t slots, int32_t** other, float** weight);
  void* context;
};

// False: an index lay outside [0, num_rows], and nothing was allocated. No result depends on the number of threads.
PCSEG_KERNEL(bool potts_graph(const PottsLists& a, const PottsGraphOutput& out, const Parallel& parallel))

inline bool run_potts_graph(const PottsLists& a, const PottsGraphOutput& out, const Parallel& parallel) {
  PCSEG_DISPATCH(potts_graph, a, out, parallel);
}

}  // namespace pcseg
