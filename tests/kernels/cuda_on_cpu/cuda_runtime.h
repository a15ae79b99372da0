// Stands in for CUDA's header, so that a plain C++ compiler builds the .cu files and a CPU runs them, for tests where
// there is no GPU: one block after the other, each thread of a block a fiber of its own.
//
// What it finds: wrong arithmetic, indices, shuffles and masks; a barrier that not all threads reach; lanes that leave
// a warp before it votes; and, as the threads run in several orders (CUDA_ON_CPU_ORDER=forward, reverse, random), most
// missing barriers. What it cannot find: limits of registers, the memory model, alignment of vector loads.
#pragma once

#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

using cudaError_t = int;
using cudaStream_t = void*;
enum { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline const char* cudaGetErrorString(cudaError_t) { return "none on a CPU"; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cuda_on_cpu {

struct Place {
  dim3 thread, block, block_size, grid;
};
extern Place place;  // of the fiber that runs now

void run(const char* what, dim3 blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel);
void* shared_memory();

void block_barrier();
// Waits until all lanes of `mask` have brought a value; then `lane_value` tells each lane's. `kind` must agree.
void meet(unsigned mask, char kind, uint64_t value);
uint64_t lane_value(int lane);
inline int lane() { return static_cast<int>(place.thread.x % 32); }

template <class T>
T exchange(unsigned mask, char kind, T value, int from) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  meet(mask, kind, bits);
  if (from < 0 || from > 31) return value;
  const uint64_t other = lane_value(from);
  std::memcpy(&value, &other, sizeof(T));
  return value;
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::place.thread)
#define blockIdx (cuda_on_cpu::place.block)
#define blockDim (cuda_on_cpu::place.block_size)
#define gridDim (cuda_on_cpu::place.grid)

inline void __syncthreads() { cuda_on_cpu::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_on_cpu::meet(mask, 'w', 0); }
template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return cuda_on_cpu::exchange(mask, 's', value, from & 31);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  return cuda_on_cpu::exchange(mask, 'u', value, cuda_on_cpu::lane() - static_cast<int>(by));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  return cuda_on_cpu::exchange(mask, 'd', value, cuda_on_cpu::lane() + static_cast<int>(by));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int by) {
  return cuda_on_cpu::exchange(mask, 'x', value, cuda_on_cpu::lane() ^ by);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  cuda_on_cpu::meet(mask, 'b', vote);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) votes |= static_cast<unsigned>(cuda_on_cpu::lane_value(lane)) << lane;
  return votes;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == mask; }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }

template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}
template <class T>
T atomicCAS(T* to, T expected, T value) {
  const T before = *to;
  if (before == expected) *to = value;
  return before;
}
template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  if (value < before) *to = value;
  return before;
}
template <class T>
T atomicMax(T* to, T value) {
  const T before = *to;
  if (before < value) *to = value;
  return before;
}

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
using std::fma;
using std::sqrt;
