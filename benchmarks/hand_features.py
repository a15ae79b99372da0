"""Features made by hand, for the random forest: shape of a point's neighbourhood, colour and texture around a pixel."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pcseg import ops

CHUNK = 100_000  # rows whose neighbourhoods are held at a time
SIGMAS = (1.0, 2.0, 4.0, 8.0, 16.0)


def shape_features(coords: Tensor, scales: tuple[int, ...]) -> np.ndarray:  # (N, 3) -> (N, 7 * S) float32
    """Covariance features of the k nearest points at each scale (Weinmann 2015).

    Linearity, planarity, sphericity, change of curvature, verticality, height range, size. Large neighbourhoods are
    taken from a thinned cloud, so that every scale looks at about as many points.
    """
    parts = []
    for step, k in enumerate(scales):
        support, neighbours = coords, k
        if step:
            grid = ops.grid_subsample(coords, 0.25 * 2.0**step)
            support = ops.voxel_features(grid, coords).coords
            neighbours = 20
        rows = []
        for query in coords.split(CHUNK):
            index, _ = ops.knn(query, support, neighbours)
            # In double: their features are rounded once, at the end.
            shape = ops.local_geometry(support.double(), index)
            height = support[:, 2][index.clamp(max=len(support) - 1)]
            large, middle, small = shape.eigenvalues.clamp(min=1e-9).unbind(1)
            rows.append(
                torch.stack(
                    [
                        (large - middle) / large,
                        (middle - small) / large,
                        small / large,
                        small / (small + middle + large),
                        shape.verticality,
                        (height.amax(1) - height.amin(1)).double(),
                        large.sqrt(),
                    ],
                    dim=1,
                ).float()
            )
        parts.append(torch.cat(rows))
    return torch.cat(parts, 1).numpy()


def texture_features(color: np.ndarray) -> np.ndarray:  # (H, W, 3) uint8 -> (H * W, 3 + 9 * len(SIGMAS)) float32
    """Colour, and at each scale the blurred colour, contrast, edges and the structure tensor (Haralick's questions).

    Per sigma: three blurred channels, the local deviation of brightness, gradient magnitude, Laplacian, both
    eigenvalues of the structure tensor, and the deviation of the greenness g - (r + b) / 2.
    """
    planes = np.moveaxis(np.asarray(color, np.float32) / 255.0, -1, 0)
    bright, green = planes.mean(0), planes[1] - (planes[0] + planes[2]) / 2
    found = list(planes)
    for sigma in SIGMAS:

        def blur(plane: np.ndarray, sigma: float = sigma) -> np.ndarray:
            return ndimage.gaussian_filter(plane, sigma)

        def deviation(plane: np.ndarray) -> np.ndarray:
            return np.sqrt(np.maximum(blur(plane * plane) - blur(plane) ** 2, 0))

        dy, dx = (ndimage.gaussian_filter1d(blur(bright), 1.0, axis, order=1) for axis in (0, 1))
        xx, xy, yy = blur(dx * dx), blur(dx * dy), blur(dy * dy)
        half, root = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
        found += [*(blur(plane) for plane in planes), deviation(bright), np.hypot(dx, dy)]
        found += [ndimage.gaussian_laplace(bright, sigma), half + root, half - root, deviation(green)]
    return np.stack(found, -1).reshape(-1, len(found)).astype(np.float32)
