// Which instruction set the kernels use, chosen once at run time.
//
// Every kernel source is compiled once per instruction set into the namespace PCSEG_ISA names (setup.py sets it), and
// its header offers one inline function that picks the best compiled version the processor can run:
//
//     PCSEG_KERNEL(void segment_sum(const float* values, ...));          // declares all versions
//     inline void segment_sum_any(...) { PCSEG_DISPATCH(segment_sum, values, ...); }
#pragma once

namespace pcseg {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2 };

// The best instruction set this processor has, capped by the environment variable PCSEG_ISA (portable, avx2, avx512) or
// by limit_isa. Results are the same for every choice up to the rounding of sums; searches are bit-identical.
Isa active_isa();

// Caps the choice for the calling process; tests use it to run every version. Returns what is then in force.
Isa limit_isa(Isa cap);

}  // namespace pcseg

// PCSEG_ONE_ISA: only the version called portable, whatever flags it is compiled with (the sanitizer tests).
#if defined(__x86_64__) && !defined(PCSEG_ONE_ISA)
#define PCSEG_KERNEL(...)                                                                                              \
  namespace portable { __VA_ARGS__; }                                                                                  \
  namespace avx2 { __VA_ARGS__; }                                                                                      \
  namespace avx512 { __VA_ARGS__; }
#define PCSEG_DISPATCH(name, ...)                                                                                      \
  switch (::pcseg::active_isa()) {                                                                                     \
    case ::pcseg::Isa::avx512: return ::pcseg::avx512::name(__VA_ARGS__);                                              \
    case ::pcseg::Isa::avx2: return ::pcseg::avx2::name(__VA_ARGS__);                                                  \
    default: return ::pcseg::portable::name(__VA_ARGS__);                                                              \
  }
#else
#define PCSEG_KERNEL(...)                                                                                              \
  namespace portable { __VA_ARGS__; }
#define PCSEG_DISPATCH(name, ...) return ::pcseg::portable::name(__VA_ARGS__)
#endif
