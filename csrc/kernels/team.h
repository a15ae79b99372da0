// Several phases of work for one start of threads.
//
// Where threads sleep between the parts of a program, each start of them costs tens of microseconds, as much as a phase
// on a small cloud. A team starts them once: the caller leads from phase to phase and works from the first moment on;
// threads that have woken up join in and look out for the next phase until the leader is through.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <type_traits>

#include "parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pcseg {

class Team {
 public:
  // lead(team) on the calling thread, with at most `most` threads of the pool. An exception reaches the caller.
  template <class Lead>
  static void run(const Parallel& parallel, int64_t most, Lead&& lead) {
    const int threads = static_cast<int>(std::clamp<int64_t>(most, 1, parallel.threads()));
    Team team(threads);
    parallel.ranges(threads, 1, [&](int64_t begin, int64_t) {
      if (begin > 0) return team.help();
      const Close close{team};  // after an exception, too
      lead(team);
    });
  }

  int threads() const { return threads_; }

  // f(task, worker) for each task in [0, n), n < 2^32, handed out one by one; worker < threads(), 0 for the leader.
  // Called by the leader only; returns when all are done. No task may wait for another: the leader may have to run
  // them all.
  template <class F>
  void tasks(int64_t n, F&& f) {
    if (n <= 0) return;
    if (threads_ == 1 || n == 1) {
      for (int64_t task = 0; task < n; ++task) f(task, 0);
      return;
    }
    context_ = const_cast<void*>(static_cast<const void*>(&f));
    body_ = [](void* context, int64_t task, int worker) {
      (*static_cast<std::remove_reference_t<F>*>(context))(task, worker);
    };
    size_ = n;
    finished_.store(0, std::memory_order_relaxed);
    ++phase_;
    ticket_.store(phase_ << 32 | static_cast<uint64_t>(n), std::memory_order_release);
    work(0);
    for (Wait wait; finished_.load(std::memory_order_acquire) < n;) wait.once();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr uint64_t left = 0xffffffff;  // the part of a ticket that says how many tasks nobody has taken

  // Some microseconds awake, as phases follow each other closely; then others get the processor, if they want it.
  struct Wait {
    int times = 0;
    void once() {
      if (++times > 256) return std::this_thread::yield();
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
  };
  struct Close {
    Team& team;
    ~Close() { team.closed_.store(true, std::memory_order_release); }
  };

  explicit Team(int threads) : threads_(threads) {}

  void help() {
    const int worker = helpers_.fetch_add(1, std::memory_order_relaxed) + 1;
    for (Wait wait; !closed_.load(std::memory_order_acquire); wait.once())
      if (work(worker)) wait.times = 0;
  }

  // Runs tasks of the current phase until none is left; returns whether it found any. A ticket names its phase, so that
  // nobody takes a task of a phase that is over; and a phase is not over before the tasks that were taken are.
  bool work(int worker) {
    bool found = false;
    for (uint64_t ticket = ticket_.load(std::memory_order_acquire); ticket & left;) {
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      found = true;
      try {
        body_(context_, size_ - static_cast<int64_t>(ticket & left), worker);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
      finished_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
    return found;
  }

  const int threads_;
  uint64_t phase_ = 0;
  void (*body_)(void* context, int64_t task, int worker) = nullptr;
  void* context_ = nullptr;
  int64_t size_ = 0;
  std::exception_ptr error_;
  std::atomic<bool> failed_{false}, closed_{false};
  std::atomic<int> helpers_{0};
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> finished_{0};
};

}  // namespace pcseg
