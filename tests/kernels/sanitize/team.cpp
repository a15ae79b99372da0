// Teams: every task once, phase after phase, whatever threads come; exceptions reach the caller.
#include "../../../csrc/kernels/team.h"

#include <atomic>
#include <stdexcept>

#include "sanitize.h"

using namespace pcseg;

namespace {

// As a pool does that has no thread free: all parts on the caller's, in their order.
Parallel one_after_the_other() {
  return Parallel(
      [](int64_t n, int64_t, Parallel::Body body, void* context) {
        for (int64_t i = 0; i < n; ++i) body(context, i, i + 1);
      },
      3);
}

void phases(const Parallel& parallel, int64_t most) {
  Team::run(parallel, most, [&](Team& team) {
    CHECK(team.threads() >= 1 && team.threads() <= std::max<int64_t>(most, 1));
    std::vector<int64_t> before(1000, 0), sums(1000, 0);
    for (int64_t phase = 1; phase <= 200; ++phase) {
      const int64_t n = phase * 7 % 1000;
      std::vector<int64_t> of_worker(team.threads(), 0);  // not atomic: no two threads are the same worker
      team.tasks(n, [&](int64_t task, int worker) {
        ++sums[task];
        ++of_worker[worker];
      });
      int64_t done = 0;
      for (const int64_t count : of_worker) done += count;
      CHECK(done == n);
      for (int64_t task = 0; task < n; ++task) CHECK(sums[task] == ++before[task]);
    }
    CHECK(sums == before);
  });
}

void exceptions(const Parallel& parallel) {
  int caught = 0;
  try {
    Team::run(parallel, 3, [&](Team& team) {
      team.tasks(50, [](int64_t task, int) {
        if (task % 10 == 3) throw std::runtime_error("a task fails");
      });
      CHECK(false);
    });
  } catch (const std::runtime_error&) {
    ++caught;
  }
  try {
    Team::run(parallel, 3, [](Team&) { throw std::runtime_error("the leader fails"); });
  } catch (const std::runtime_error&) {
    ++caught;
  }
  CHECK(caught == 2);
}

}  // namespace

int main() {
  for (const int64_t most : {0, 1, 2, 3, 100}) {
    phases(Parallel::serial(), most);
    phases(one_after_the_other(), most);
    phases(three_threads(), most);
  }
  exceptions(Parallel::serial());
  exceptions(one_after_the_other());
}
