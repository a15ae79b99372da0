"""Point-cloud operations: C++ and CUDA kernels behind pure functions on tensors."""

from pcseg.ops.kpconv import kpconv, kpconv_fitting_distance
from pcseg.ops.neighbor_max import neighbor_max
from pcseg.ops.segment_reduce import segment_reduce

__all__ = ["kpconv", "kpconv_fitting_distance", "neighbor_max", "segment_reduce"]
