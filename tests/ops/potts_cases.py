"""Inputs of potts_energy, for the CPU and for the CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def make(
    n: int = 60, k: int = 10, classes: int = 13, dtype: torch.dtype = torch.float32, scale: float = 3.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, lists of which a third of the slots and every seventh row are empty, weights around 0."""
    g = torch.Generator().manual_seed(seed)
    neighbors = torch.randint(0, n + 1, (n, k), generator=g)
    neighbors[torch.rand(n, k, generator=g) < 0.3] = n
    neighbors[::7] = n
    logits = scale * torch.randn(n, classes, generator=g, dtype=torch.float64)
    weight = torch.randn(n, k, generator=g, dtype=torch.float64)
    return torch.log_softmax(logits, 1).to(dtype), neighbors, weight.to(dtype)


def one_hot(n: int = 40, k: int = 6, classes: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Exact one-hot rows among soft ones."""
    log_probs, neighbors, weight = make(n, k, classes, dtype)
    log_probs[::2] = torch.where(torch.eye(classes)[torch.arange(0, n, 2) % classes] == 1, 0.0, -torch.inf).to(dtype)
    return log_probs, neighbors, weight


CASES = {
    "usual": lambda: make(),
    "float64": lambda: make(dtype=torch.float64),
    "one_class": lambda: make(classes=1),
    "two_classes": lambda: make(classes=2),
    "15_classes": lambda: make(classes=15),
    "16_classes": lambda: make(classes=16),
    "20_classes": lambda: make(classes=20),
    "many_classes": lambda: make(classes=150),
    "many_classes_float64": lambda: make(classes=67, dtype=torch.float64),
    "one_slot": lambda: make(k=1),
    "16_slots": lambda: make(k=16),
    "many_slots": lambda: make(k=37),
    "one_hot": lambda: one_hot(),
    "confident": lambda: make(scale=30),
    "one_row": lambda: make(n=1),
    "no_slot": lambda: make(k=0),
    "no_row": lambda: make(n=0),
    "non_contiguous": lambda: (make(classes=26)[0][:, ::2].log_softmax(1), make(k=14)[1][:, ::2], make(k=7)[2]),
}


def as_csr(neighbors: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """edge_offsets, edge_index, edge_weight without the empty slots."""
    present = neighbors < neighbors.shape[0]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), present.sum(1).cumsum(0)])
    return offsets, neighbors[present], weight[present]
