#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace pcseg {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa from_environment() {
  const Isa best = detect();
  const char* wanted = std::getenv("PCSEG_ISA");
  if (!wanted) return best;
  Isa cap = best;
  if (!std::strcmp(wanted, "portable")) cap = Isa::portable;
  if (!std::strcmp(wanted, "avx2")) cap = Isa::avx2;
  return cap < best ? cap : best;
}

std::atomic<int>& current() {
  static std::atomic<int> isa{static_cast<int>(from_environment())};
  return isa;
}

}  // namespace

Isa active_isa() { return static_cast<Isa>(current().load(std::memory_order_relaxed)); }

Isa limit_isa(Isa cap) {
  const Isa best = detect();
  current().store(static_cast<int>(cap < best ? cap : best));
  return active_isa();
}

}  // namespace pcseg
