#include <array>

#include "../kernels/kpconv_cuda.h"
#include "cuda_common.h"
#include "kpconv_inputs.h"

namespace pcseg::bindings {
namespace {

Tensor kpconv(Tensor query, Tensor support, Tensor neighbors, Tensor feats, Tensor weights, Tensor kernel_points,
              double sigma, MaybeTensor kernel_offsets, MaybeTensor modulations) {
  constexpr auto op = "kpconv";
  Inputs in{query, support, neighbors, feats, weights, kernel_points, kernel_offsets, modulations, sigma};
  in.check(op);
  Tensor out = empty_like_device(in.feats, {in.query.size(0), in.weights.size(2)}, in.feats.scalar_type());
  const OnDevice device(in.feats);
  if (in.feats.scalar_type() == ScalarType::Float)
    kpconv_cuda(in.kernel<float>(), mutable_data<float>(out), device.stream());
  else
    kpconv_cuda(in.kernel<double>(), mutable_data<double>(out), device.stream());
  return out;
}

template <class T>
void run_backward(const Inputs& in, const Tensor& grad_out, std::array<Tensor, 4>& grads,
                  const std::array<bool, 4>& wanted) {
  const auto pointer = [&](int i) { return wanted[i] ? mutable_data<T>(grads[i]) : nullptr; };
  const OnDevice device(in.feats);
  const KpConv<T> a = in.kernel<T>();
  const KpConvGradients<T> g{.grad_out = data<T>(grad_out),
                             .feats = pointer(0),
                             .weights = pointer(1),
                             .kernel_offsets = pointer(2),
                             .modulations = pointer(3)};
  Tensor memory = workspace(in.feats, kpconv_backward_workspace_bytes(a, g));
  kpconv_backward_cuda(a, g, memory.data_ptr(), device.stream());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> kpconv_backward(Tensor grad_out, Tensor query, Tensor support,
                                                           Tensor neighbors, Tensor feats, Tensor weights,
                                                           Tensor kernel_points, double sigma,
                                                           MaybeTensor kernel_offsets, MaybeTensor modulations,
                                                           bool need_feats, bool need_weights, bool need_offsets,
                                                           bool need_modulations) {
  constexpr auto op = "kpconv_backward";
  Inputs in{query, support, neighbors, feats, weights, kernel_points, kernel_offsets, modulations, sigma};
  in.check(op);
  grad_out = torch::stable::contiguous(grad_out);
  const ScalarType type = in.feats.scalar_type();
  const int64_t m = in.query.size(0), k = in.kernel_points.size(0), d = in.query.size(1), o = in.weights.size(2);
  expect(grad_out.scalar_type() == type && grad_out.dim() == 2 && grad_out.size(0) == m && grad_out.size(1) == o, op,
         "grad_out must be (M, O) of the dtype of feats");
  const std::array<bool, 4> wanted{need_feats, need_weights, need_offsets && in.kernel_offsets,
                                   need_modulations && in.modulations};
  expect(!need_feats || in.neighbors.numel() < INT32_MAX, op, "at most 2^31 - 2 neighbours on a GPU");
  const std::vector<int64_t> sizes[4] = {
      {in.feats.size(0), in.feats.size(1)}, {k, in.feats.size(1), o}, {m, k, d}, {m, k}};
  std::array<Tensor, 4> grads;
  for (int i = 0; i < 4; ++i)
    grads[i] = empty_like_device(in.feats, wanted[i] ? sizes[i] : std::vector<int64_t>{0}, type);
  if (type == ScalarType::Float)
    run_backward<float>(in, grad_out, grads, wanted);
  else
    run_backward<double>(in, grad_out, grads, wanted);
  return {grads[0], grads[1], grads[2], grads[3]};
}

PCSEG_CUDA_IMPL(m) {
  m.impl("kpconv", TORCH_BOX(&kpconv));
  m.impl("kpconv_backward", TORCH_BOX(&kpconv_backward));
}

}  // namespace
}  // namespace pcseg::bindings
