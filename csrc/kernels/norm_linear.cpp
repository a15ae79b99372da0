#include "norm_linear.h"

#include "norm_blocks.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
void forward(const NormLinear<T>& a, T* out, const Parallel& parallel) {
  if (a.of_batch) find_moments(a, parallel);
  const NormForward<T> layers(a);
  using Memory = typename NormForward<T>::Memory;
  for_parts(
      a.num_rows, a.num_rows, parallel, [&] { return std::unique_ptr<Memory>(new Memory(layers.memory(kNormRows))); },
      [&](int64_t begin, int64_t end, Memory& memory) {
        for_blocks(begin, end, [&](int64_t first, int64_t count) {
          layers(a.rows + first * a.in_channels, count, out + first * a.out_channels, memory);
        });
      });
}

template <class T>
void backward(const NormLinear<T>& a, const NormLinearGradients<T>& g, const Parallel& parallel) {
  const NormBackward<T> layers(a);
  ParameterSums<T> sums(a.num_rows, a.num_rows, layers.size());
  using Memory = typename NormBackward<T>::Memory;
  for_tasks(
      sums.chunks(), parallel, [&] { return std::unique_ptr<Memory>(new Memory(layers.memory(kNormRows))); },
      [&](int64_t chunk, Memory& memory) {
        T* sum = sums.start(chunk);
        for_blocks(sums.begin(chunk), sums.begin(chunk + 1), [&](int64_t first, int64_t count) {
          layers(a.rows + first * a.in_channels, g.grad_out + first * a.out_channels, count,
                 g.rows + first * a.in_channels, sum, memory);
        });
      });
  layers.write(sums.total(), g);
  if (a.of_batch) through_moments(a, g, parallel);
}

}  // namespace

void norm_linear(const NormLinear<float>& a, float* out, const Parallel& parallel) { forward(a, out, parallel); }
void norm_linear(const NormLinear<double>& a, double* out, const Parallel& parallel) { forward(a, out, parallel); }
void norm_linear_backward(const NormLinear<float>& a, const NormLinearGradients<float>& g, const Parallel& parallel) {
  backward(a, g, parallel);
}
void norm_linear_backward(const NormLinear<double>& a, const NormLinearGradients<double>& g,
                          const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
