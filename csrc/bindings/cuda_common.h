// What every CUDA binding needs beyond torch_common.h. No CUDA header: what reaches a kernel are pointers and a stream.
#pragma once

#include "torch_common.h"

#ifdef PCSEG_CUDA_ON_CPU
// tests/kernels builds the kernels for a CPU and registers them beside the real ops.
#define PCSEG_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(pcseg_cuda_on_cpu, CPU, m)
#else
#include <torch/csrc/stable/accelerator.h>
#define PCSEG_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(pcseg, CUDA, m)
// torch's header declares it only where CUDA's headers are; the library of a CUDA torch has it.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif

namespace pcseg::bindings {

// Makes the tensor's device current while it lives, and knows that device's current stream.
class OnDevice {
 public:
#ifdef PCSEG_CUDA_ON_CPU
  explicit OnDevice(const Tensor&) {}
#else
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }
#endif
  void* stream() const { return stream_; }

 private:
#ifndef PCSEG_CUDA_ON_CPU
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  void* stream_ = nullptr;
};

inline void expect_float(const Tensor& t, const char* op, const char* what) {
  expect(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, op, what);
}

inline Tensor workspace(const Tensor& like, size_t bytes) {
  return empty_like_device(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
}

}  // namespace pcseg::bindings
