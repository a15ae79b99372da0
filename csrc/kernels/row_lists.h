// Entries grouped by the row they name, on a GPU: what a gradient needs that many entries add to, so that it is summed
// in one order and needs no atomic additions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcseg::cuda {

// The entries that name `row` are entry[first[row]] .. entry[first[row + 1] - 1], in ascending order.
struct RowLists {
  const int32_t* first;  // (num_rows + 1)
  const int32_t* entry;
};

// rows (num_entries): the row that each entry names, or num_rows for none. Both numbers below 2^31.
size_t row_lists_bytes(int64_t num_entries, int64_t num_rows);
RowLists group_by_row(const uint64_t* rows, int64_t num_entries, int64_t num_rows, void* workspace, void* stream);

}  // namespace pcseg::cuda
