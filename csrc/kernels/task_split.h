// How a fused product is cut into tasks. Every choice depends on sizes alone, never on the threads, so that results do
// not either.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "parallel.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Tasks wanted at least: where tiles are few, each is cut into blocks of columns, which then gather alike.
constexpr int64_t kMinTasks = 16;

struct Columns {
  static constexpr int64_t kStep = 64;  // a multiple of every panel
  int64_t total, width;

  Columns(int64_t columns, int64_t tiles, int64_t narrowest) : total(columns) {
    const int64_t most = std::max<int64_t>(1, columns / narrowest);
    const int64_t wanted = std::clamp<int64_t>((kMinTasks + tiles - 1) / std::max<int64_t>(tiles, 1), 1, most);
    width = std::max(kStep, round_up((columns + wanted - 1) / wanted, kStep));
  }
  int64_t blocks() const { return (total + width - 1) / width; }
  int64_t begin(int64_t block) const { return block * width; }
  int64_t end(int64_t block) const { return std::min(total, (block + 1) * width); }
};

// Chunks of rows that sum a gradient of `size` numbers each, to be added up afterwards: enough rows that adding up is
// cheap beside, and 16 MiB in float together at most unless one takes more.
inline int64_t gradient_chunks(int64_t rows, int64_t size) {
  return std::clamp<int64_t>(std::min(rows / 256, (int64_t{1} << 22) / std::max<int64_t>(size, 1)), 1, 32);
}

// f(task, memory) for each task; each worker makes its memory, a std::unique_ptr, when it first needs it.
template <class Make, class F>
void for_tasks(int64_t tasks, const Parallel& parallel, Make&& make, F&& f) {
  std::vector<decltype(make())> memory(parallel.threads());
  parallel.tasks(tasks, [&](int64_t task, int worker) {
    if (!memory[worker]) memory[worker] = make();
    f(task, *memory[worker]);
  });
}

}  // namespace
}  // namespace pcseg::PCSEG_ISA
