"""A network that reads windows of pixels over a whole image: overlap, averaged probabilities, memory by the band."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pcseg.errors import InputError
from pcseg.images import image_batch
from pcseg.inference import ANY_VIEW, Answer, Protocol
from pcseg.models.modes import evaluating
from pcseg.vote_views import VoteViews


def predict_windows(
    model: nn.Module,
    feats: Callable[[np.ndarray], np.ndarray],  # (n,) int64 rows -> (n, C) float32, scaled for the network
    shape: tuple[int, int],
    *,
    size: int,
    overlap: float,
    answer: Answer,
    protocol: Protocol,
    device: torch.device,
    views: VoteViews = ANY_VIEW,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The answer for every pixel, band by band: (rows (n,) int64, values (n, K) float32 on the CPU), K = answer.width.

    Bands are disjoint and go down the image; held is what a row of windows covers. An image smaller than a window is
    seen as it is. Votes are mirrored and turned views, at most eight, as ``views`` allows.

    Args:
        shape: (height, width) of the image; row y * width + x is pixel (x, y).
        size: edge of a window, pixels.
        overlap: share of ``size`` by which windows overlap at least, in [0, 1); the protocol's unit ``tile`` has none,
            and where a last window overlaps for want of room its neighbour's answer stands.

    Raises:
        InputError: more votes than there are views.
    """
    seen = views.of_grid()[: protocol.votes]
    if len(seen) < protocol.votes:
        raise InputError(
            f"votes={protocol.votes}: this image network has {len(seen)} "
            f"view{'s' if len(seen) > 1 else ''}, mirrored or turned as it was trained; ask for votes={len(seen)}"
        )
    height, width = shape
    tiled = protocol.unit == "tile"
    tops, lefts = (_starts(count, size, 0.0 if tiled else overlap) for count in shape)
    rims = [_weights(starts, count, size, tiled) for starts, count in ((tops, height), (lefts, width))]
    with evaluating(model):
        held, first = torch.zeros(0, width, answer.width + 1), 0  # sums of the rows from ``first`` on
        for number, (top, down) in enumerate(zip(tops, rims[0], strict=True)):
            missing = top + len(down) - first - len(held)
            held = torch.cat([held, torch.zeros(missing, width, answer.width + 1)])
            for left, across in zip(lefts, rims[1], strict=True):
                rows = np.arange(top, top + len(down))[:, None] * width + np.arange(left, left + len(across))
                window = torch.from_numpy(np.ascontiguousarray(feats(rows.reshape(-1)), np.float32))
                values = _average(model, answer, window.view(*rows.shape, -1), seen, device)
                weight = (down[:, None] * across)[:, :, None]
                part = held[top - first : top - first + len(down), left : left + len(across)]
                part += torch.cat([weight * values, weight], 2)
            done = (tops[number + 1] if number + 1 < len(tops) else height) - first
            sums = held[:done].reshape(-1, answer.width + 1)
            yield np.arange(first * width, (first + done) * width), sums[:, :-1] / sums[:, -1:]
            held, first = held[done:], first + done


@torch.no_grad()
def _average(
    model: nn.Module, answer: Answer, window: Tensor, views: list[tuple[int, bool]], device: torch.device
) -> Tensor:
    """Mean values (H, W, K) of the views of a window (H, W, C)."""
    seen = [_turned_back(_forward(model, answer, _turned(window, *view), device), *view) for view in views]
    return torch.stack(seen).mean(0)


def _forward(model: nn.Module, answer: Answer, window: Tensor, device: torch.device) -> Tensor:  # (H, W, K)
    height, width = window.shape[:2]
    batch = image_batch(window).to(device)
    output = model(batch, model.levels(batch))  # pyright: ignore[reportCallIssue]
    return answer.read(output).cpu().view(height, width, -1)


def _turned(window: Tensor, quarters: int, mirrored: bool) -> Tensor:  # (H, W, C)
    turned = torch.rot90(window, quarters, (0, 1))
    return turned.flip(1) if mirrored else turned


def _turned_back(window: Tensor, quarters: int, mirrored: bool) -> Tensor:
    return torch.rot90(window.flip(1) if mirrored else window, -quarters, (0, 1))


def _starts(count: int, size: int, overlap: float) -> list[int]:
    """Where windows begin along an axis of ``count`` pixels: evenly spread, from border to border."""
    if count <= size:
        return [0]
    step = max(1, math.floor(size * (1.0 - overlap)))
    return np.linspace(0, count - size, 1 + math.ceil((count - size) / step)).round().astype(int).tolist()


def _weights(starts: list[int], count: int, size: int, tiled: bool) -> list[Tensor]:
    """How much each place of each window counts along an axis: what the network sees least of counts least.

    A ramp from a window's rim to its middle; 1 everywhere, from where the former window ends on, if ``tiled``.
    """
    length = min(size, count)
    if not tiled:
        rim = torch.arange(length) + 0.5
        return [torch.minimum(rim, length - rim) / (length / 2.0)] * len(starts)
    ends = [0, *(start + length for start in starts)]
    return [(torch.arange(length) >= end - start).float() for start, end in zip(starts, ends, strict=False)]
