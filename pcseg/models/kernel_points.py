"""Kernel dispositions: where the points of a KPConv kernel sit."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import minimize

Layout = Literal["centre", "vertical"]

MEAN_RADIUS = 1.5
"""Mean distance of the outer points to the centre, in units of sigma: neighbouring influences overlap a little."""

RESTARTS = 10
_STORED = Path(__file__).with_name("kernel_points.json")


@lru_cache
def kernel_points(
    num_points: int,
    dim: int,
    layout: Layout = "centre",
) -> np.ndarray:  # (K, D) float64, read-only
    """A regular disposition of K kernel points in the ball, in units of sigma.

    The first point is the centre. The others minimise the sum over all pairs of 1 / |x - y| (each repels each) plus the
    sum of |x|^2 (the centre attracts); of several starts the lowest energy wins. They are then scaled so that their
    mean distance to the centre is :data:`MEAN_RADIUS`. K = 15 in 2D and 3D is stored with the package, so that every
    machine has the same bits; other sizes are computed once a process. A model keeps its kernel in its state.

    Args:
        num_points: K, at least 1.
        dim: D, 2 or 3.
        layout: "vertical" keeps points 1 and 2 on the last axis, one above and one below the centre.

    Raises:
        ValueError: K < 1, D not 2 or 3, or "vertical" with fewer than 3 points.

    Source: Thomas et al. 2019, KPConv, section 3.1 and supplementary material A (mean radius 1.5 sigma). The authors'
    code scales to 0.66 of the convolution radius instead (1.65 voxels), and turns each layer's kernel at random.
    """
    if num_points < 1 or dim not in (2, 3):
        raise ValueError(f"kernel_points: expected at least 1 point in 2 or 3 dimensions, got {num_points} in {dim}")
    if layout == "vertical" and num_points < 3:
        raise ValueError(f"kernel_points: a vertical layout needs at least 3 points, got {num_points}")
    points = _stored(num_points, dim, layout)
    if points is None:
        points = optimise(num_points, dim, layout)
    points.flags.writeable = False
    return points


def optimise(num_points: int, dim: int, layout: Layout = "centre") -> np.ndarray:  # (K, D) float64
    """Compute what :func:`kernel_points` describes, without the stored dispositions; the same on every call."""
    outer = num_points - 1
    if outer == 0:
        return np.zeros((1, dim))
    free = np.ones((outer, dim))
    if layout == "vertical":
        free[:2, :-1] = 0.0
    rng = np.random.default_rng(0)
    best, best_energy = None, np.inf
    for _ in range(RESTARTS):
        start = rng.uniform(-1.0, 1.0, (outer, dim)) * free
        if layout == "vertical":
            start[:2, -1] = 1.0, -1.0
        found = minimize(_energy, start.ravel(), args=(free,), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
        if found.fun < best_energy - 1e-6 * abs(found.fun):
            best, best_energy = found.x.reshape(outer, dim), found.fun
    assert best is not None
    best = best * (MEAN_RADIUS / np.linalg.norm(best, axis=1).mean())
    return np.concatenate([np.zeros((1, dim)), best])


def _energy(flat: np.ndarray, free: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy of the outer points and its gradient; the centre sits at the origin."""
    outer = flat.reshape(-1, free.shape[1])
    points = np.concatenate([np.zeros((1, free.shape[1])), outer])
    delta = points[:, None] - points[None]
    inverse = 1.0 / np.sqrt((delta**2).sum(-1) + 1e-12)
    np.fill_diagonal(inverse, 0.0)
    energy = 0.5 * inverse.sum() + (outer**2).sum()
    gradient = 2.0 * outer - (delta * inverse[..., None] ** 3).sum(1)[1:]
    return float(energy), (gradient * free).ravel()


def _stored(num_points: int, dim: int, layout: Layout) -> np.ndarray | None:
    table = json.loads(_STORED.read_text())
    rows = table.get(f"{num_points}_{dim}_{layout}")
    return None if rows is None else np.array(rows, dtype=np.float64)
