// Sorting items by the row they belong to, with threads, and with the same result for any number of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

// A stable counting sort of items by support row. `each(begin, end, f)` calls f(support, item) for the items of sources
// begin .. end - 1; `place(position, item)` stores one, after `resize(how many)`. first[j] becomes the first position
// of support j. The sources are sorted in parts that follow each other, so the number of parts changes nothing.
template <class Each, class Resize, class Place>
void sort_by_support(int64_t sources, int64_t supports, Buffer<int64_t>& first, const Parallel& parallel, Each&& each,
                     Resize&& resize, Place&& place) {
  const int64_t parts = std::clamp<int64_t>(parallel.threads(), 1, 8);
  Buffer<int32_t> next(parts * supports);
  first.grow(supports + 1);
  parallel.tasks(parts, [&](int64_t part, int) {
    int32_t* count = next.data() + part * supports;
    std::fill_n(count, supports, 0);
    each(sources * part / parts, sources * (part + 1) / parts, [&](int64_t j, int64_t) { ++count[j]; });
  });
  int64_t total = 0;
  for (int64_t j = 0; j < supports; ++j) {
    first[j] = total;
    int32_t before = 0;
    for (int64_t part = 0; part < parts; ++part) {
      int32_t& count = next[part * supports + j];
      before += count;
      count = before - count;
    }
    total += before;
  }
  first[supports] = total;
  resize(total);
  parallel.tasks(parts, [&](int64_t part, int) {
    int32_t* count = next.data() + part * supports;
    each(sources * part / parts, sources * (part + 1) / parts,
         [&](int64_t j, int64_t item) { place(first[j] + count[j]++, item); });
  });
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
