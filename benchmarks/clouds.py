"""Inputs of the op benchmarks: the shipped scan, and synthetic clouds with a fixed seed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import laspy
import numpy as np
import torch
from torch import Tensor

from pcseg import ops

SAMPLES = Path(__file__).resolve().parent.parent / "samples"


class Clouds:
    """Each input is made once. Coordinates are float32, metres, recentred; rows are in the order of recording."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @cache  # noqa: B019 (one object a process)
    def ahn3(self) -> Tensor:  # (849k, 3)
        """The whole AHN3 sample: airborne, about 20 points a square metre."""
        parts = [laspy.read(SAMPLES / "ahn3_delft" / f"crop_{i}.laz").xyz for i in (1, 2)]
        xyz = np.concatenate(parts)
        return torch.from_numpy(np.ascontiguousarray(xyz - xyz.mean(0), dtype=np.float32)).to(self.device)

    @cache  # noqa: B019
    def ahn3_voxels(self) -> Tensor:  # (about 280k, 3)
        """The same after 0.5 m subsampling, as networks see it."""
        coords = self.ahn3()
        grid = ops.grid_subsample(coords, 0.5)
        return ops.voxel_features(grid, coords=coords).coords

    @cache  # noqa: B019
    def room(self, density: int = 1) -> Tensor:  # (density * 324k, 3)
        """An office: floor, ceiling, walls, tables and clutter, sampled at random, 2 mm of noise, shuffled."""
        rng = np.random.default_rng(0)
        width, depth, height = 8.0, 6.0, 3.0
        parts = [_rectangle(rng, density * 55_000, (0, 0, z), (width, 0, 0), (0, depth, 0)) for z in (0.0, height)]
        for x in (0.0, width):
            parts.append(_rectangle(rng, density * 27_000, (x, 0, 0), (0, depth, 0), (0, 0, height)))
        for y in (0.0, depth):
            parts.append(_rectangle(rng, density * 35_000, (0, y, 0), (width, 0, 0), (0, 0, height)))
        for _ in range(45):
            corner = rng.uniform((0, 0, 0), (width - 1.2, depth - 1.2, 1.2))
            size = rng.uniform(0.1, 1.2, 3)
            edges = np.diag(size)
            for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
                for side in (0, 1):
                    parts.append(_rectangle(rng, density * 333, corner + side * edges[c], edges[a], edges[b]))
        points = np.concatenate(parts)
        points += rng.normal(scale=0.002, size=points.shape)
        return torch.from_numpy(rng.permutation(points).astype(np.float32)).to(self.device)

    @cache  # noqa: B019
    def lidar(self) -> Tensor:  # (about 86k, 3)
        """One turn of a 64-beam spinning scanner on a street between boxes: density falls with the square of range."""
        rng = np.random.default_rng(1)
        azimuth = np.linspace(0, 2 * np.pi, 1800, endpoint=False)
        elevation = np.radians(np.linspace(-25, 3, 64))
        turn, beam = np.meshgrid(azimuth, elevation, indexing="ij")
        rays = np.stack([np.cos(beam) * np.cos(turn), np.cos(beam) * np.sin(turn), np.sin(beam)], -1).reshape(-1, 3)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.where(rays[:, 2] < 0, -1.8 / rays[:, 2], np.inf)
            for _ in range(60):  # cars and houses: axis-aligned boxes, slab test
                centre = rng.uniform((-60, -60), (60, 60))
                half = rng.uniform((1.0, 1.0), (6.0, 6.0))
                if np.abs(centre).max() < 8:
                    continue
                low = np.array([*(centre - half), -1.8])
                high = np.array([*(centre + half), rng.uniform(-0.3, 6)])
                near, far = low / rays, high / rays
                enter, leave = np.minimum(near, far).max(1), np.maximum(near, far).min(1)
                hit = (enter < leave) & (enter > 0)
                distance = np.where(hit & (enter < distance), enter, distance)
        seen = distance < 100
        points = rays[seen] * (distance[seen] + rng.normal(scale=0.02, size=seen.sum()))[:, None]
        return torch.from_numpy(points.astype(np.float32)).to(self.device)

    @cache  # noqa: B019
    def cube(self, points: int) -> Tensor:  # (points, 3)
        """Uniform, one point to a unit of volume, shuffled: for scaling from thousands to millions."""
        generator = torch.Generator().manual_seed(2)
        return (torch.rand(points, 3, generator=generator) * points ** (1 / 3)).to(self.device)

    @cache  # noqa: B019
    def image(self) -> Tensor:  # (480, 640, 3) uint8
        """A photograph's stand-in: a few smooth regions with sharp borders and sensor noise."""
        rng = np.random.default_rng(3)
        y, x = np.mgrid[:480, :640]
        sites, colours = rng.uniform((0, 0), (480, 640), (40, 2)), rng.uniform(30, 225, (40, 3))
        region = np.argmin((y[..., None] - sites[:, 0]) ** 2 + (x[..., None] - sites[:, 1]) ** 2, axis=-1)
        shade = 20 * np.sin(x / 90)[..., None] * np.cos(y / 70)[..., None]
        image = colours[region] + shade + rng.normal(scale=4, size=(480, 640, 3))
        return torch.from_numpy(image.clip(0, 255).astype(np.uint8)).to(self.device)


def _rectangle(rng: np.random.Generator, count: int, corner, edge, other_edge) -> np.ndarray:  # (count, 3)
    u, v = rng.uniform(size=(2, count, 1))
    return np.asarray(corner) + u * np.asarray(edge) + v * np.asarray(other_edge)
