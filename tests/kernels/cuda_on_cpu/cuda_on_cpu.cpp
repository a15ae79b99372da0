// The fibers behind cuda_runtime.h (beside this file).
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#include "cuda_runtime.h"

namespace cuda_on_cpu {

Place place;

namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kMaxSharedBytes = 227 * 1024;

enum class State { ready, at_barrier, in_warp, finished };

struct Fiber {
  jmp_buf resume;
  State state = State::finished;
  unsigned mask = 0;
  char kind = 0;
  int meetings = 0;  // parity chooses the slot: a lane can be ahead of its warp by one meeting at most
  uint64_t slot[2] = {};
};

std::vector<Fiber> fibers;
jmp_buf scheduler;
int current = 0, block_threads = 0, alive = 0, waiting = 0;
const std::function<void()>* kernel_now = nullptr;
std::string kernel_name;
std::vector<unsigned char> shared_bytes_now;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda_on_cpu: %s: block (%u, %u), thread %d: %s\n", kernel_name.c_str(), place.block.x,
               place.block.y, current, what);
  std::abort();
}

void yield() {
  if (_setjmp(fibers[current].resume) == 0) _longjmp(scheduler, 1);
}

void release_barrier() {
  for (int t = 0; t < block_threads; ++t)
    if (fibers[t].state == State::at_barrier) fibers[t].state = State::ready;
  waiting = 0;
}

// A fiber serves one thread of every block of that size, so its stack is set up once.
void fiber_main() {
  while (true) {
    (*kernel_now)();
    fibers[current].state = State::finished;
    --alive;
    if (alive > 0 && waiting == alive) release_barrier();
    yield();
  }
}

void add_fiber() {
  fibers.emplace_back();
  current = static_cast<int>(fibers.size()) - 1;
  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack == MAP_FAILED) fail("no memory for a stack");
  static ucontext_t context, back;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  // The first entry only parks the fiber; the kernel starts at its first resume.
  makecontext(
      &context,
      +[] {
        if (_setjmp(fibers[current].resume) == 0) swapcontext(&context, &back);
        fiber_main();
      },
      0);
  swapcontext(&back, &context);
}

void resume(int thread) {
  current = thread;
  place.thread = dim3(static_cast<unsigned>(thread), 0, 0);
  if (_setjmp(scheduler) == 0) _longjmp(fibers[thread].resume, 1);
}

void run_block(const std::vector<int>& order) {
  for (int t = 0; t < block_threads; ++t) {
    fibers[t].state = State::ready;
    fibers[t].meetings = 0;
  }
  alive = block_threads;
  waiting = 0;
  std::fill(shared_bytes_now.begin(), shared_bytes_now.end(), static_cast<unsigned char>(0xcd));
  while (alive > 0) {
    bool moved = false;
    for (const int thread : order)
      if (fibers[thread].state == State::ready) {
        resume(thread);
        moved = true;
      }
    if (!moved) fail("the block's threads wait for each other for ever");
  }
}

}  // namespace

void run(const char* what, dim3 blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel) {
  kernel_name = what;
  if (threads < 1 || threads > 1024 || blocks.x < 1 || blocks.y < 1 || blocks.z < 1 || blocks.y > 65535 ||
      blocks.z > 65535 || shared_bytes > kMaxSharedBytes)
    fail("no GPU takes this launch");
  static std::mt19937 random(0);
  const char* wanted = std::getenv("CUDA_ON_CPU_ORDER");
  const std::string order_name = wanted ? wanted : "forward";
  kernel_now = &kernel;
  block_threads = threads;
  shared_bytes_now.resize(shared_bytes);
  while (static_cast<int>(fibers.size()) < threads) {
    fibers.reserve(1024);
    add_fiber();
  }
  std::vector<int> order(threads);
  for (int t = 0; t < threads; ++t) order[t] = order_name == "reverse" ? threads - 1 - t : t;
  const int64_t count = int64_t{blocks.x} * blocks.y * blocks.z;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t block = order_name == "reverse" ? count - 1 - i : i;
    if (order_name == "random") std::shuffle(order.begin(), order.end(), random);
    place.grid = blocks;
    place.block_size = dim3(static_cast<unsigned>(threads));
    place.block = dim3(static_cast<unsigned>(block % blocks.x), static_cast<unsigned>(block / blocks.x % blocks.y),
                       static_cast<unsigned>(block / blocks.x / blocks.y));
    run_block(order);
  }
}

void* shared_memory() { return shared_bytes_now.data(); }

void block_barrier() {
  fibers[current].state = State::at_barrier;
  if (++waiting == alive) return release_barrier();
  yield();
}

void meet(unsigned mask, char kind, uint64_t value) {
  Fiber& self = fibers[current];
  const int first = current / 32 * 32;
  if (!(mask >> (current - first) & 1)) fail("a lane calls a warp operation whose mask leaves it out");
  self.slot[self.meetings++ & 1] = value;
  self.state = State::in_warp;
  self.mask = mask;
  self.kind = kind;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (first + lane >= block_threads) fail("the mask of a warp operation names lanes that the block lacks");
    const Fiber& other = fibers[first + lane];
    if (other.state == State::finished) fail("the mask of a warp operation names a lane that has finished");
    if (other.state != State::in_warp) return yield();
    if (other.mask != mask || other.kind != kind || other.meetings != self.meetings)
      fail("lanes of a warp meet in different operations");
  }
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) fibers[first + lane].state = State::ready;
}

uint64_t lane_value(int lane) {
  const Fiber& other = fibers[current / 32 * 32 + lane];
  return other.slot[(fibers[current].meetings - 1) & 1];
}

}  // namespace cuda_on_cpu
