"""local_geometry of 16 neighbours a point against batched eigenvectors in torch and NumPy, and Open3D's normals."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg.ops import knn, local_geometry

OPS = ("local_geometry",)

NEIGHBORS = 16
CHUNK = 100_000  # lists whose points are held at a time


def cases(clouds: Clouds) -> Iterator[Case]:
    for name, coords in (("ahn3", clouds.ahn3()), ("room", clouds.room()), ("lidar", clouds.lidar())):
        lists = knn(coords, coords, NEIGHBORS)[0]
        yield Case(
            op="local_geometry",
            variant="lists given",
            input=name,
            rows=len(coords),
            ours=lambda coords=coords, lists=lists: local_geometry(coords, lists),
            peers={
                "torch eigh": lambda coords=coords, lists=lists: torch_eigh(coords, lists),
                "NumPy eigh": lambda coords=coords, lists=lists: numpy_eigh(coords.cpu().numpy(), lists.cpu().numpy()),
            },
            bytes_moved=coords.nbytes + lists.nbytes + len(coords) * 14 * coords.element_size(),
            check=lambda coords=coords, lists=lists: check(coords, lists),
        )
        yield Case(
            op="local_geometry",
            variant="search included",
            input=name,
            rows=len(coords),
            ours=lambda coords=coords: local_geometry(coords, knn(coords, coords, NEIGHBORS)[0]),
            peers=open3d_peers(coords),
        )


def torch_eigh(coords: Tensor, lists: Tensor) -> tuple[Tensor, Tensor]:  # (M, 3), (M, 3)
    """Eigenvalues, ascending, and normals: less than what local_geometry gives."""
    values, normals = [], []
    for rows in lists.split(CHUNK):
        points = coords.double()[rows]
        centred = points - points.mean(1, keepdim=True)
        value, vector = torch.linalg.eigh(centred.mT @ centred / rows.shape[1])
        values.append(value)
        normals.append(vector[:, :, 0])
    return torch.cat(values), torch.cat(normals)


def numpy_eigh(coords: np.ndarray, lists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As torch_eigh."""
    values, normals = [], []
    for begin in range(0, len(lists), CHUNK):
        points = coords.astype(np.float64)[lists[begin : begin + CHUNK]]
        centred = points - points.mean(1, keepdims=True)
        value, vector = np.linalg.eigh(centred.transpose(0, 2, 1) @ centred / lists.shape[1])
        values.append(value)
        normals.append(vector[:, :, 0])
    return np.concatenate(values), np.concatenate(normals)


def open3d_peers(coords: Tensor) -> dict[str, Callable[[], object]]:
    """Covariances and normals: Open3D has no features, and no eigenvalues, of neighbourhoods."""
    open3d = optional("open3d")
    if not open3d or coords.is_cuda:
        return {}
    legacy = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(coords.double().numpy()))
    search = open3d.geometry.KDTreeSearchParamKNN(NEIGHBORS)

    def normals() -> object:  # of a new cloud: one that has normals would only turn to them
        cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(coords.numpy()))
        return cloud.estimate_normals(max_nn=NEIGHBORS)

    return {"Open3D normals": normals, "Open3D covariances": lambda: legacy.estimate_covariances(search)}


def check(coords: Tensor, lists: Tensor) -> None:
    some = lists[:: max(1, len(lists) // 5000)]
    geometry, (values, normals) = local_geometry(coords, some), torch_eigh(coords, some)
    torch.testing.assert_close(geometry.eigenvalues.double(), values.flip(1).clamp(min=0), rtol=1e-5, atol=1e-7)
    clear = values[:, 1] - values[:, 0] > 1e-3 * values[:, 2]
    assert ((geometry.normals.double() * normals).sum(1).abs()[clear] > 1 - 1e-5).all()
