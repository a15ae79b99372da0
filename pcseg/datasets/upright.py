"""Scans in a camera's frame, stood on the surface that most of their points lie on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcseg.errors import InputError

_SAMPLE = 20_000  # points among which the surface is looked for
_SWEEPS = 5


class Standing(NamedTuple):
    """A scan on its surface: x right, y forward, z above it."""

    coords: np.ndarray  # (N, 3) float64
    camera: np.ndarray  # (3,) float64


def upright(
    coords: np.ndarray,  # (N, 3) float, camera frame: x right, y down, z forward
    *,
    tolerance: float = 0.006,
) -> Standing:
    """Turn and shift a scan so that its largest plane, a table or a floor, is z = 0 with the camera above it.

    The plane is found by random samples of fixed seed, then fitted to the points within ``tolerance``.

    Args:
        tolerance: in the unit of the coordinates, of a point on the plane.

    Raises:
        InputError: fewer than three points, or no plane that the camera looks down on.
    """
    from sklearn.linear_model import RANSACRegressor

    points = np.asarray(coords, np.float64)
    if len(points) < 3:
        raise InputError(f"{len(points)} points lie on no plane; at least three are needed")
    sample = points[:: max(1, len(points) // _SAMPLE)]
    found = RANSACRegressor(residual_threshold=tolerance, max_trials=300, random_state=0)
    found.fit(sample[:, [0, 2]], sample[:, 1])  # y over (x, z): a surface seen from above is no wall
    plane = found.estimator_
    slope = np.asarray(plane.coef_, np.float64)  # pyright: ignore[reportAttributeAccessIssue]
    normal = np.array([slope[0], -1.0, slope[1]])
    offset = float(plane.intercept_)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    normal, level = normal / np.linalg.norm(normal), -offset / np.linalg.norm(normal)
    for _ in range(_SWEEPS):  # least squares over the inliers, which the better plane has more of
        near = sample[np.abs(sample @ normal - level) <= tolerance]
        middle = near.mean(0)
        axis = np.linalg.svd(near - middle, full_matrices=False)[2][2]
        normal = axis if axis[1] < 0 else -axis  # up is where y falls
        level = float(middle @ normal)
    forward = np.array([0.0, 0.0, 1.0]) - normal[2] * normal
    length = np.linalg.norm(forward)
    if length < 1e-6:
        raise InputError("the largest plane faces the camera: it is a wall, not what things stand on")
    forward /= length
    turned = points @ np.stack([np.cross(forward, normal), forward, normal], 1)
    turned[:, 2] -= level
    return Standing(turned, np.array([0.0, 0.0, -level]))
