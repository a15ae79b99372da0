#include "../kernels/segment_reduce.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

template <class T>
void run(const Tensor& values, const Tensor& offsets, Tensor& out, Tensor& arg, Reduce reduce) {
  run_segment_reduce<T>({.values = data<T>(values),
                         .offsets = data<int64_t>(offsets),
                         .out = mutable_data<T>(out),
                         .arg = reduce == Reduce::max ? mutable_data<int64_t>(arg) : nullptr,
                         .num_segments = offsets.size(0) - 1,
                         .channels = values.size(1),
                         .reduce = reduce},
                        torch_threads());
}

std::tuple<Tensor, Tensor> segment_reduce(Tensor values, Tensor offsets, int64_t reduce) {
  constexpr auto op = "segment_reduce";
  values = torch::stable::contiguous(values);
  offsets = torch::stable::contiguous(offsets);
  expect(values.dim() == 2 && offsets.dim() == 1 && offsets.size(0) >= 1, op, "values (N, C), offsets (S + 1,)");
  expect(offsets.scalar_type() == ScalarType::Long, op, "offsets must be int64");
  const int64_t* o = data<int64_t>(offsets);
  const int64_t segments = offsets.size(0) - 1;
  for (int64_t s = 0; s < segments; ++s) expect(o[s] <= o[s + 1], op, "offsets must ascend");
  expect(o[0] >= 0 && o[segments] <= values.size(0), op, "offsets must lie within the rows of values");

  const auto kind = static_cast<Reduce>(reduce);
  Tensor out = empty_like_device(values, {segments, values.size(1)}, values.scalar_type());
  Tensor arg = empty_like_device(values, {kind == Reduce::max ? segments : 0, values.size(1)}, ScalarType::Long);
  if (values.scalar_type() == ScalarType::Float) {
    run<float>(values, offsets, out, arg, kind);
  } else {
    expect(values.scalar_type() == ScalarType::Double, op, "values must be float32 or float64");
    run<double>(values, offsets, out, arg, kind);
  }
  return {out, arg};
}

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def("segment_reduce(Tensor values, Tensor offsets, int reduce) -> (Tensor out, Tensor arg)");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CPU, m) { m.impl("segment_reduce", TORCH_BOX(&segment_reduce)); }

}  // namespace
}  // namespace pcseg::bindings
