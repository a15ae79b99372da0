#include "row_lists.h"

#include "cuda_launch.h"
#include "host_device.h"
#include "sort_scan.h"

namespace pcseg::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) count_up_kernel(int32_t* entry, int64_t count) {
  for (int64_t i = thread_in_grid(); i < count; i += threads_in_grid()) entry[i] = static_cast<int32_t>(i);
}

// first[row] = the first of the sorted rows that is not below `row`.
__global__ void __launch_bounds__(kThreads)
    first_kernel(const uint64_t* sorted_rows, int64_t num_entries, int64_t num_rows, int32_t* first) {
  for (int64_t row = thread_in_grid(); row <= num_rows; row += threads_in_grid()) {
    int64_t low = 0, high = num_entries;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sorted_rows[middle] < static_cast<uint64_t>(row))
        low = middle + 1;
      else
        high = middle;
    }
    first[row] = static_cast<int32_t>(low);
  }
}

struct Workspace {
  int32_t *entry, *sorted_entry, *first;
  uint64_t* sorted_rows;
  unsigned char* sort;
  size_t sort_bytes;

  Workspace(Arena& arena, int64_t num_entries, int64_t num_rows) {
    entry = arena.take<int32_t>(num_entries);
    sorted_entry = arena.take<int32_t>(num_entries);
    sorted_rows = arena.take<uint64_t>(num_entries);
    first = arena.take<int32_t>(num_rows + 1);
    sort_bytes = sort_workspace_bytes(num_entries, bits(num_rows));
    sort = arena.take<unsigned char>(static_cast<int64_t>(sort_bytes));
  }

  // Bits that hold 0 .. num_rows.
  static int bits(int64_t num_rows) {
    int bits = 1;
    while (num_rows >> bits) ++bits;
    return bits;
  }
};

}  // namespace

size_t row_lists_bytes(int64_t num_entries, int64_t num_rows) {
  Arena arena(nullptr);
  const Workspace counted(arena, num_entries, num_rows);
  return arena.used();
}

RowLists group_by_row(const uint64_t* rows, int64_t num_entries, int64_t num_rows, void* workspace, void* stream) {
  Arena arena(workspace);
  const Workspace w(arena, num_entries, num_rows);
  if (num_entries > 0) {
    launch("row_lists", count_up_kernel, blocks_for(num_entries, kThreads), kThreads, 0, stream, w.entry, num_entries);
    sort_pairs(rows, w.sorted_rows, w.entry, w.sorted_entry, num_entries, Workspace::bits(num_rows), w.sort,
               w.sort_bytes, stream);
  }
  launch("row_lists", first_kernel, blocks_for(num_rows + 1, kThreads), kThreads, 0, stream, w.sorted_rows, num_entries,
         num_rows, w.first);
  return {w.first, w.sorted_entry};
}

}  // namespace pcseg::cuda
