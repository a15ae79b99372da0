#include "cuda_launch.h"
#include "neighbor_max_cuda.h"

namespace pcseg {
namespace {

constexpr int kThreads = 256;

// One thread an element of the result: neighbouring threads read neighbouring channels of one row.
template <class T>
__global__ void pool_lists(NeighborMax<T> a) {
  const int64_t count = a.num_lists * a.channels;
  for (int64_t i = cuda::thread_in_grid(); i < count; i += cuda::threads_in_grid()) {
    const int64_t m = i / a.channels, c = i % a.channels;
    const int64_t* list = a.neighbors + m * a.width;
    T best = T(0);
    int64_t where = a.num_rows;
    for (int64_t h = 0; h < a.width; ++h) {
      const int64_t row = list[h];
      if (row < 0 || row >= a.num_rows) continue;
      const T value = a.values[row * a.channels + c];
      if (where == a.num_rows || value > best || (value != value && best == best)) {
        best = value;
        where = row;
      }
    }
    a.out[i] = best;
    a.arg[i] = static_cast<int32_t>(where);
  }
}

template <class T>
__global__ void scatter(NeighborMaxBackward<T> a) {
  const int64_t count = a.num_lists * a.channels;
  for (int64_t i = cuda::thread_in_grid(); i < count; i += cuda::threads_in_grid()) {
    const int64_t row = a.arg[i];
    if (row >= 0 && row < a.num_rows) atomicAdd(a.grad_values + row * a.channels + i % a.channels, a.grad[i]);
  }
}

template <class Arguments>
void run(const char* what, void (*kernel)(Arguments), const Arguments& a, void* stream) {
  const int64_t count = a.num_lists * a.channels;
  if (count > 0) cuda::launch(what, kernel, dim3(cuda::blocks_for(count, kThreads)), kThreads, 0, stream, a);
}

}  // namespace

void neighbor_max_cuda(const NeighborMax<float>& a, void* stream) { run("neighbor_max", pool_lists<float>, a, stream); }
void neighbor_max_cuda(const NeighborMax<double>& a, void* stream) {
  run("neighbor_max", pool_lists<double>, a, stream);
}
void neighbor_max_backward_cuda(const NeighborMaxBackward<float>& a, void* stream) {
  run("neighbor_max_backward", scatter<float>, a, stream);
}
void neighbor_max_backward_cuda(const NeighborMaxBackward<double>& a, void* stream) {
  run("neighbor_max_backward", scatter<double>, a, stream);
}

}  // namespace pcseg
