// What a kernel's driver needs: memory of exactly the size that the contract names, so that the address sanitizer sees
// any step beyond it, and threads.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "../../../csrc/kernels/parallel.h"

#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                    \
    }                                                                                  \
  } while (false)

template <class T>
std::vector<T> uniform(int64_t n, uint32_t seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<T> draw(0, 1);
  std::vector<T> values(n);
  for (T& value : values) value = draw(engine);
  values.shrink_to_fit();
  return values;
}

inline pcseg::Parallel three_threads() {
  return pcseg::Parallel(
      [](int64_t n, int64_t, pcseg::Parallel::Body body, void* context) {
        std::vector<std::thread> threads;
        for (int64_t part = 0; part < 3; ++part)
          threads.emplace_back([=] {
            if (n * part / 3 < n * (part + 1) / 3) body(context, n * part / 3, n * (part + 1) / 3);
          });
        for (std::thread& thread : threads) thread.join();
      },
      3);
}
