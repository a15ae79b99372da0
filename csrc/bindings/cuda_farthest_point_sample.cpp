#include <limits>

#include "../kernels/farthest_point_sample_cuda.h"
#include "cuda_common.h"

namespace pcseg::bindings {
namespace {

constexpr auto op = "farthest_point_sample";

template <class T>
void run(const Tensor& coords, const Tensor& offsets, const Tensor& sample_offsets, const Tensor& start,
         Tensor& samples, void* stream) {
  const FarthestPointSample<T> a{.coords = data<T>(coords),
                                 .offsets = data<int64_t>(offsets),
                                 .sample_offsets = data<int64_t>(sample_offsets),
                                 .start = data<int64_t>(start),
                                 .num_points = coords.size(0),
                                 .num_clouds = offsets.size(0) - 1,
                                 .num_samples = samples.size(0),
                                 .dim = coords.size(1),
                                 .samples = mutable_data<int64_t>(samples)};
  Tensor memory = workspace(coords, farthest_point_sample_workspace_bytes(a));
  farthest_point_sample_cuda(a, memory.data_ptr(), stream);
}

// num_samples: all clouds together; -1 where only sample_offsets knows, which costs a wait for the GPU.
Tensor farthest_point_sample(Tensor coords, Tensor offsets, Tensor sample_offsets, Tensor start, int64_t num_samples) {
  for (Tensor* t : {&coords, &offsets, &sample_offsets, &start}) *t = torch::stable::contiguous(*t);
  expect(coords.dim() == 2 && coords.size(1) >= 1 && coords.size(1) <= 8, op, "coords must be (N, 1 to 8)");
  expect_float(coords, op, "coords must be float32 or float64");
  expect(coords.size(0) < std::numeric_limits<int32_t>::max() - 32, op, "at most 2^31 - 34 rows on a GPU");
  expect(offsets.dim() == 1 && offsets.size(0) >= 1 && offsets.scalar_type() == ScalarType::Long, op,
         "offsets must be (B + 1,) int64");
  const int64_t clouds = offsets.size(0) - 1;
  expect(sample_offsets.dim() == 1 && sample_offsets.size(0) == clouds + 1 && start.dim() == 1 &&
             start.size(0) == clouds && sample_offsets.scalar_type() == ScalarType::Long &&
             start.scalar_type() == ScalarType::Long,
         op, "sample_offsets must be (B + 1,) int64, start (B,) int64");
  const OnDevice device(coords);
  if (num_samples == -1)
    num_samples = farthest_point_sample_count_cuda(data<int64_t>(sample_offsets), clouds, device.stream());
  expect(num_samples >= 0, op, "num_samples must be at least 0");
  expect(num_samples <= coords.size(0), op, "no more samples than points");

  Tensor samples = empty_like_device(coords, {num_samples}, ScalarType::Long);
  if (coords.scalar_type() == ScalarType::Float)
    run<float>(coords, offsets, sample_offsets, start, samples, device.stream());
  else
    run<double>(coords, offsets, sample_offsets, start, samples, device.stream());
  return samples;
}

PCSEG_CUDA_IMPL(m) { m.impl("farthest_point_sample", TORCH_BOX(&farthest_point_sample)); }

}  // namespace
}  // namespace pcseg::bindings
