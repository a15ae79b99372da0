"""Rows of one batch put into another: boxes (CutMix, and its siblings in space), instances, or all (Mix3D)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcseg import ops
from pcseg.batch import IGNORE, PointBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A batch made of the rows of two, and where each row comes from. Cloud i holds rows of both clouds i."""

    batch: PointBatch
    source: Tensor  # (N,) int64, 0: the first batch, 1: the second
    index: Tensor  # (N,) int64, row in that batch

    def take(self, of_first: Tensor, of_second: Tensor) -> Tensor:  # (N_a, ...), (N_b, ...) -> (N, ...)
        """Mix what belongs to the rows in the same way: pseudo-labels, confidences."""
        return _take(of_first, of_second, self.source, self.index)


def draw_boxes(
    batch: PointBatch,
    generator: torch.Generator,
    *,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    in_plane: bool = True,
) -> Tensor:  # (B, 2, D) float32, lowest and highest corner, the highest not included
    """A random box in the extent of each cloud: whole pixels of images, and in space a column or a block.

    Args:
        area: range of the share of the plane (of the space, of blocks) that a box takes, drawn uniformly.
        aspect: range of its extent along y over that along x, each as a share of the cloud's, drawn uniformly among
            those with which the box fits.
        in_plane: leave the third axis open (a column); else the box ends there too (a block).

    Source: Yun et al. 2019, CutMix; ranges of area and aspect as in Yang et al. 2023, UniMatch (code).
    """
    dim = batch.coords.shape[1]
    boxes = torch.empty(len(batch), 2, dim)
    boxes[:, 0], boxes[:, 1] = -torch.inf, torch.inf
    bounds = batch.offsets.tolist()
    coords = batch.coords.cpu()
    for cloud in range(len(batch)):
        draws = torch.rand(5, generator=generator)
        rows = coords[bounds[cloud] : bounds[cloud + 1]]
        if not len(rows):
            continue
        share = float(area[0] + (area[1] - area[0]) * draws[0])
        depth = share ** (1 / 3) if dim == 3 and not in_plane else 1.0
        share /= depth
        low, high = max(aspect[0], share), min(aspect[1], 1 / share)
        ratio = low + (high - low) * float(draws[1])
        shares = torch.tensor([(share / ratio) ** 0.5, (share * ratio) ** 0.5, depth][:dim])
        lowest = rows.amin(0)
        if batch.image_sizes is None:
            extent = rows.amax(0) - lowest
            start = lowest + (1 - shares) * extent * draws[2 : 2 + dim]
            ends = start + shares * extent
        else:  # from the middle between two pixels to the middle between two others
            count = batch.image_sizes[cloud].flip(0).cpu()
            width = (shares * count).round().clamp(min=1)
            start = lowest - 0.5 + torch.minimum(((count - width + 1) * draws[2:4]).floor(), count - width)
            ends = start + width
        closed = dim if not in_plane else 2
        boxes[cloud, 0, :closed], boxes[cloud, 1, :closed] = start[:closed], ends[:closed]
    return boxes


def mix_boxes(
    first: PointBatch,
    second: PointBatch,
    boxes: Tensor,  # (B, 2, D) float, of each pair of clouds
) -> Mixed:
    """The rows of ``first`` outside the boxes and those of ``second`` inside.

    Images keep their grid and its order: each pixel is that of one or of the other. Of clouds, the rows of ``first``
    come before those of ``second``. Labels that one batch lacks are IGNORE; ids of instances of ``second`` are raised
    beyond those of ``first``.

    Raises:
        ValueError: batches of different numbers of clouds, dimensions or features, images of different sizes, images
            with clouds.
    """
    _check("mix_boxes", first, second)
    if boxes.shape != (len(first), 2, first.coords.shape[1]):
        wanted = (len(first), 2, first.coords.shape[1])
        raise ValueError(f"mix_boxes: boxes must be {wanted}, got {tuple(boxes.shape)}")
    return _mixed(first, second, ~_inside(first, boxes), _inside(second, boxes))


def draw_instances(
    batch: PointBatch,
    generator: torch.Generator,
    *,
    share: float = 0.5,
) -> Tensor:  # (N,) bool
    """The rows of some instances of each cloud: each is drawn with the probability ``share``.

    Raises:
        ValueError: a batch without instances.
    """
    if batch.instances is None:
        raise ValueError("draw_instances: the batch has no instances")
    instances, cloud = batch.instances.cpu(), batch.cloud_index.cpu()
    chosen = torch.zeros(batch.num_rows, dtype=torch.bool)
    known = instances != IGNORE
    ids, member = torch.unique(torch.stack([cloud[known], instances[known]], 1), dim=0, return_inverse=True)
    chosen[known] = (torch.rand(len(ids), generator=generator) < share)[member]
    return chosen.to(batch.coords.device)


def mix_instances(
    first: PointBatch,
    second: PointBatch,
    chosen: Tensor,  # (N_b,) bool, rows of ``second``: whole instances, of :func:`draw_instances`
    *,
    reach: float,
) -> Mixed:
    """Put rows of ``second`` into ``first``, in place of what they cover.

    Of images, each covers the pixel at its place. Of clouds, a row of ``first`` is covered if one of them is no further
    from it than ``reach``, in the unit of the coordinates: about the distance between neighbours. They stay at their
    own coordinates, relative to the centre of their crop. Order, labels and ids are as in :func:`mix_boxes`.

    Raises:
        ValueError: as :func:`mix_boxes`.
    """
    _check("mix_instances", first, second)
    if chosen.shape != (second.num_rows,) or chosen.dtype != torch.bool:
        raise ValueError(f"mix_instances: chosen must be ({second.num_rows},) bool, got {tuple(chosen.shape)}")
    if first.image_sizes is not None:
        return _mixed(first, second, ~chosen, chosen)
    counts = torch.bincount(second.cloud_index[chosen], minlength=len(second))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    near = ops.radius_search(
        first.coords, second.coords[chosen], reach, 1, query_offsets=first.offsets, support_offsets=offsets
    )
    return _mixed(first, second, near[:, 0] == int(chosen.sum()), chosen)


def mix_all(first: PointBatch, second: PointBatch) -> Mixed:
    """All rows of both: of each pair of clouds their union, of clouds alone. Order, labels and ids as in
    :func:`mix_boxes`.

    Raises:
        ValueError: as :func:`mix_boxes`; images, whose pixels would share their places.

    Source: Nekrasov et al. 2021, Mix3D.
    """
    _check("mix_all", first, second)
    if first.image_sizes is not None:
        raise ValueError("mix_all: of clouds alone; the pixels of two images share their places")
    return _mixed(first, second, *(torch.ones_like(b.cloud_index, dtype=torch.bool) for b in (first, second)))


def _check(name: str, first: PointBatch, second: PointBatch) -> None:
    if len(first) != len(second):
        raise ValueError(f"{name}: as many clouds in both expected, got {len(first)} and {len(second)}")
    for field in ("coords", "feats"):
        widths = getattr(first, field).shape[1], getattr(second, field).shape[1]
        if widths[0] != widths[1]:
            raise ValueError(f"{name}: {field} have different widths {widths[0]} and {widths[1]}")
    sizes = first.image_sizes, second.image_sizes
    if (sizes[0] is None) != (sizes[1] is None):
        raise ValueError(f"{name}: one batch is of images, the other of clouds")
    if sizes[0] is not None and sizes[1] is not None and not torch.equal(sizes[0], sizes[1]):
        raise ValueError(f"{name}: images of one size expected, got {sizes[0].tolist()} and {sizes[1].tolist()}")


def _inside(batch: PointBatch, boxes: Tensor) -> Tensor:  # (N,) bool
    corners = boxes.to(batch.coords)[batch.cloud_index]
    return ((batch.coords >= corners[:, 0]) & (batch.coords < corners[:, 1])).all(1)


def _mixed(first: PointBatch, second: PointBatch, kept: Tensor, added: Tensor) -> Mixed:
    """The kept rows of one and the added rows of the other, cloud by cloud."""
    cloud = torch.cat([first.cloud_index[kept], second.cloud_index[added]])
    index = torch.cat([torch.nonzero(kept)[:, 0], torch.nonzero(added)[:, 0]])
    source = torch.zeros_like(index)
    source[int(kept.sum()) :] = 1
    # On a grid a row's place is its index; of clouds the sort leaves the rows of a cloud as they are.
    order = torch.argsort(cloud if first.image_sizes is None else index, stable=True)
    source, index = source[order], index[order]
    counts = torch.bincount(cloud, minlength=len(first))

    def values(name: str) -> Tensor | None:
        of_first, of_second = getattr(first, name), getattr(second, name)
        if name == "rows" and (of_first is None or of_second is None):
            return None
        if of_first is None and of_second is None:
            return None
        if of_first is None:
            of_first = torch.full_like(first.offsets, IGNORE)[:1].expand(first.num_rows)
        if of_second is None:
            of_second = torch.full_like(second.offsets, IGNORE)[:1].expand(second.num_rows)
        if name == "instances" and len(of_first):
            of_second = torch.where(of_second == IGNORE, IGNORE, of_second + of_first.max() + 1)
        return _take(of_first, of_second, source, index)

    batch = PointBatch(
        coords=_take(first.coords, second.coords, source, index),
        feats=_take(first.feats, second.feats, source, index),
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        labels=values("labels"),
        instances=values("instances"),
        rows=values("rows"),
        image_sizes=first.image_sizes,
    )
    return Mixed(batch=batch, source=source, index=index)


def _take(of_first: Tensor, of_second: Tensor, source: Tensor, index: Tensor) -> Tensor:
    return torch.cat([of_first, of_second])[index + source * len(of_first)]
