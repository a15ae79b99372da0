"""Point-cloud operations: C++ and CUDA kernels behind pure functions on tensors."""

from pcseg.ops.segment_reduce import segment_reduce

__all__ = ["segment_reduce"]
