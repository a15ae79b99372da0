#include "../kernels/isa.h"
#include "torch_common.h"

namespace pcseg::bindings {
namespace {

int64_t isa() { return static_cast<int64_t>(active_isa()); }
int64_t limit(int64_t cap) { return static_cast<int64_t>(limit_isa(static_cast<Isa>(cap))); }

STABLE_TORCH_LIBRARY_FRAGMENT(pcseg, m) {
  m.def("isa() -> int");
  m.def("limit_isa(int cap) -> int");
}
STABLE_TORCH_LIBRARY_IMPL(pcseg, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("limit_isa", TORCH_BOX(&limit));
}

}  // namespace
}  // namespace pcseg::bindings
