// Threads are the caller's: a kernel splits its work and hands the parts to whatever pool the binding brings.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>

namespace pcseg {

class Parallel {
 public:
  using Body = void (*)(void* context, int64_t begin, int64_t end);
  // Calls body on disjoint ranges that cover [0, n), each at least `grain` long where n allows, and returns when all
  // are done. The range that begins at 0 runs on the calling thread, before any other that this thread runs. An
  // exception thrown by body reaches the caller.
  using Run = void (*)(int64_t n, int64_t grain, Body body, void* context);

  Parallel(Run run, int threads) : run_(run), threads_(std::max(threads, 1)) {}

  // One thread: the caller's own.
  static Parallel serial() {
    return Parallel([](int64_t n, int64_t, Body body, void* context) { body(context, 0, n); }, 1);
  }

  int threads() const { return threads_; }

  // f(begin, end) over a static split of [0, n).
  template <class F>
  void ranges(int64_t n, int64_t grain, F&& f) const {
    if (n <= 0) return;
    if (threads_ == 1 || n <= grain) return f(int64_t{0}, n);
    auto body = [](void* context, int64_t begin, int64_t end) {
      (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
    };
    run_(n, grain, body, const_cast<void*>(static_cast<const void*>(&f)));
  }

  // f(worker) once for each worker in [0, threads()). Where the pool has fewer threads free, one thread serves several
  // workers after each other, so workers must not wait for each other.
  template <class F>
  void workers(F&& f) const {
    ranges(threads_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) f(static_cast<int>(worker));
    });
  }

  // f(task, worker) for each task in [0, n), handed out one by one: for tasks of uneven cost.
  template <class F>
  void tasks(int64_t n, F&& f) const {
    std::atomic<int64_t> next{0};
    workers([&](int worker) {
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < n;) f(task, worker);
    });
  }

 private:
  Run run_;
  int threads_;
};

}  // namespace pcseg
