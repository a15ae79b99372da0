// What every torch binding needs: torch's stable ABI only, so that one binary serves every Python and torch >= 2.11.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "../kernels/huge_pages.h"
#include "../kernels/parallel.h"

namespace pcseg::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// torch's own pool, so that torch.set_num_threads holds for the kernels too.
inline Parallel torch_threads() {
  return Parallel(
      [](int64_t n, int64_t grain, Parallel::Body body, void* context) {
        torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
      },
      static_cast<int>(torch::stable::get_num_threads()));
}

// The checks here guard memory; messages for users come from the Python face.
inline void expect(bool ok, const char* op, const char* what) { STD_TORCH_CHECK(ok, "pcseg::", op, ": ", what); }

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}
template <class T>
T* mutable_data(Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// (B + 1,) int64 on the CPU, contiguous, ascending from 0 to the number of what they divide.
inline void expect_offsets(const Tensor& offsets, int64_t end, const char* op, const char* name = "offsets",
                           const char* divided = "rows") {
  const bool right_type = offsets.dim() == 1 && offsets.size(0) >= 1 && offsets.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(right_type, "pcseg::", op, ": ", name, " must be (B + 1,) int64");
  const int64_t* o = data<int64_t>(offsets);
  const int64_t last = offsets.size(0) - 1;
  bool ascending = o[0] == 0 && o[last] == end;
  for (int64_t b = 0; b < last; ++b) ascending &= o[b] <= o[b + 1];
  STD_TORCH_CHECK(ascending, "pcseg::", op, ": ", name, " must ascend from 0 to the number of ", divided);
}

inline Tensor empty_like_device(const Tensor& like, std::vector<int64_t> sizes, ScalarType type) {
  Tensor t = torch::stable::new_empty(like, sizes, type);
  if (t.is_cpu()) prefer_huge_pages(t.data_ptr(), static_cast<size_t>(t.numel()) * t.element_size());
  return t;
}

}  // namespace pcseg::bindings
