#include "kpconv_tile_cuda.h"

namespace pcseg {
namespace cuda {
namespace {

template <class T>
void run(const KpConv<T>& a, T* out, void* stream) {
  const Convolution<T> c{.walk = {a, false, {}},
                         .rows = a.feats,
                         .matrix = a.weights,
                         .out = out,
                         .in = a.in_channels,
                         .columns = a.out_channels,
                         .aligned = rows_aligned(a.weights, a.out_channels)};
  convolve("kpconv", c, a.num_query, stream);
}

}  // namespace
}  // namespace cuda

void kpconv_cuda(const KpConv<float>& a, float* out, void* stream) { cuda::run(a, out, stream); }
void kpconv_cuda(const KpConv<double>& a, double* out, void* stream) { cuda::run(a, out, stream); }

}  // namespace pcseg
