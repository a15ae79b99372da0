// What every .cu file needs: checked calls, launches, and workspace cut into arrays.
//
// A kernel is launched through launch(), and gets its dynamic shared memory from dynamic_shared(): with these two and
// a stand-in for <cuda_runtime.h> (tests/kernels/cuda_on_cpu) a plain C++ compiler builds the same source, and the
// tests run it thread by thread on a CPU.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace pcseg::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA error in pcseg, ") + what + ": " + cudaGetErrorString(status));
}

inline cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

// Enough blocks of `threads` for `items` threads. Kernels stride over their items, so a cap costs nothing but balance.
inline unsigned blocks_for(int64_t items, int threads) {
  return static_cast<unsigned>(std::clamp<int64_t>((items + threads - 1) / threads, 1, int64_t{1} << 20));
}

#ifdef __CUDACC__
template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), dim3 blocks, int threads, size_t shared_bytes,
            void* stream, const Arguments&... arguments) {
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          what);
  kernel<<<blocks, threads, shared_bytes, stream_of(stream)>>>(arguments...);
  check(cudaGetLastError(), what);
}

template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}
#else
template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), dim3 blocks, int threads, size_t shared_bytes, void*,
            const Arguments&... arguments) {
  cuda_on_cpu::run(what, blocks, threads, shared_bytes, [&] { kernel(arguments...); });
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(cuda_on_cpu::shared_memory());
}
#endif

// Hands out parts of a workspace. Made on null it only counts: the same code then tells how much to allocate.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    T* part = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return part;
  }
  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlign = 256;
  unsigned char* base_;
  size_t used_ = 0;
};

// First item and stride of this thread's, or this warp's, share of a grid-wide loop.
__device__ inline int64_t thread_in_grid() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline int64_t threads_in_grid() { return int64_t{gridDim.x} * blockDim.x; }
__device__ inline int lane_id() { return static_cast<int>(threadIdx.x % kWarp); }

// The cloud that holds `row`: the last b with offsets[b] <= row, or -1 if none.
__device__ inline int64_t cloud_of(const int64_t* offsets, int64_t num_clouds, int64_t row) {
  int64_t low = 0, high = num_clouds + 1;  // offsets[low - 1] <= row < offsets[high]
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (offsets[middle] <= row)
      low = middle + 1;
    else
      high = middle;
  }
  return low - 1;
}

template <class T>
__device__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}

// The same result in every lane.
template <class T>
__device__ T warp_min(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = shuffle_xor(value, step);
    value = other < value ? other : value;
  }
  return value;
}
template <class T>
__device__ T warp_max(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = shuffle_xor(value, step);
    value = value < other ? other : value;
  }
  return value;
}
template <class T>
__device__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += shuffle_xor(value, step);
  return value;
}

}  // namespace pcseg::cuda
