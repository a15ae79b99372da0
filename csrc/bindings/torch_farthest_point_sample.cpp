#include <string>

#include "../kernels/farthest_point_sample.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

constexpr auto op = "farthest_point_sample";

template <class T>
int64_t run(const Tensor& coords, const Tensor& offsets, const Tensor& sample_offsets, const Tensor& start,
            Tensor& samples) {
  return run_farthest_point_sample<T>({.coords = data<T>(coords),
                                       .offsets = data<int64_t>(offsets),
                                       .sample_offsets = data<int64_t>(sample_offsets),
                                       .start = data<int64_t>(start),
                                       .num_points = coords.size(0),
                                       .num_clouds = offsets.size(0) - 1,
                                       .num_samples = samples.size(0),
                                       .dim = coords.size(1),
                                       .samples = mutable_data<int64_t>(samples)},
                                      torch_threads());
}

// num_samples: all clouds together; -1 where only sample_offsets knows.
Tensor farthest_point_sample(Tensor coords, Tensor offsets, Tensor sample_offsets, Tensor start, int64_t num_samples) {
  for (Tensor* t : {&coords, &offsets, &sample_offsets, &start}) *t = torch::stable::contiguous(*t);
  expect(coords.dim() == 2 && coords.size(1) >= 1 && coords.size(1) <= 8, op, "coords must be (N, 1 to 8)");
  expect(coords.size(0) < INT32_MAX, op, "at most 2^31 - 2 rows");
  expect_offsets(offsets, coords.size(0), op);
  const int64_t clouds = offsets.size(0) - 1;
  expect(sample_offsets.dim() == 1 && sample_offsets.size(0) == clouds + 1 && start.dim() == 1 &&
             start.size(0) == clouds && sample_offsets.scalar_type() == ScalarType::Long &&
             start.scalar_type() == ScalarType::Long,
         op, "sample_offsets must be (B + 1,) int64, start (B,) int64");
  const int64_t *rows = data<int64_t>(offsets), *wanted = data<int64_t>(sample_offsets), *first = data<int64_t>(start);
  expect(wanted[0] == 0, op, "sample_offsets must start at 0");
  for (int64_t b = 0; b < clouds; ++b) {
    const int64_t size = rows[b + 1] - rows[b];
    expect(wanted[b] <= wanted[b + 1], op, "num_samples must be at least 0");
    expect(wanted[b + 1] - wanted[b] <= size, op, "no more samples than points");
    if (wanted[b + 1] > wanted[b] && (first[b] < 0 || first[b] >= size))
      expect(false, op,
             ("start must lie in its cloud, got " + std::to_string(first[b]) + " for cloud " + std::to_string(b) +
              " of " + std::to_string(size) + " points")
                 .c_str());
  }
  expect(num_samples == -1 || num_samples == wanted[clouds], op, "num_samples must be the last of sample_offsets");

  Tensor samples = empty_like_device(coords, {wanted[clouds]}, ScalarType::Long);
  expect(coords.scalar_type() == ScalarType::Float || coords.scalar_type() == ScalarType::Double, op,
         "coords must be float32 or float64");
  const int64_t bad = coords.scalar_type() == ScalarType::Float
                          ? run<float>(coords, offsets, sample_offsets, start, samples)
                          : run<double>(coords, offsets, sample_offsets, start, samples);
  expect(bad < 0, op, ("coords must be finite, row " + std::to_string(bad) + " is not").c_str());
  return samples;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def(
      "farthest_point_sample(Tensor coords, Tensor offsets, Tensor sample_offsets, Tensor start, SymInt num_samples) "
      "-> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) { m.impl("farthest_point_sample", TORCH_BOX(&farthest_point_sample)); }

}  // namespace
}  // namespace pcseg::bindings
