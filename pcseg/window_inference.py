"""A network that reads windows of pixels over a whole image: overlap, averaged probabilities, memory by the band."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pcseg.errors import InputError
from pcseg.images import image_batch
from pcseg.inference import Protocol

MAX_VOTES = 8
"""Views of a grid that need no resampling: quarter turns, each also mirrored."""
_QUARTERS = (0, 2, 1, 3)  # a half turn before the quarter turns, which exchange height and width


def predict_windows(
    model: nn.Module,
    feats: Callable[[np.ndarray], np.ndarray],  # (n,) int64 rows -> (n, C) float32, scaled for the network
    shape: tuple[int, int],
    *,
    size: int,
    overlap: float,
    num_classes: int,
    protocol: Protocol,
    device: torch.device,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Probabilities of every pixel, band by band: (rows (n,) int64, probs (n, K) float32 on the CPU).

    Bands are disjoint and go down the image; held is what a row of windows covers. An image smaller than a window is
    seen as it is. Votes are mirrored and turned views, at most eight.

    Args:
        shape: (height, width) of the image; row y * width + x is pixel (x, y).
        size: edge of a window, pixels.
        overlap: share of ``size`` by which windows overlap at least, in [0, 1); the protocol's unit ``tile`` has none,
            and where a last window overlaps for want of room its neighbour's answer stands.

    Raises:
        InputError: more votes than there are views.
    """
    if protocol.votes > MAX_VOTES:
        raise InputError(f"votes={protocol.votes}: an image network has {MAX_VOTES} views, mirrored and turned")
    height, width = shape
    tiled = protocol.unit == "tile"
    tops, lefts = (_starts(count, size, 0.0 if tiled else overlap) for count in shape)
    rims = [_weights(starts, count, size, tiled) for starts, count in ((tops, height), (lefts, width))]
    was_training = model.training
    model.eval()
    try:
        held, first = torch.zeros(0, width, num_classes + 1), 0  # sums of the rows from ``first`` on
        for number, (top, down) in enumerate(zip(tops, rims[0], strict=True)):
            missing = top + len(down) - first - len(held)
            held = torch.cat([held, torch.zeros(missing, width, num_classes + 1)])
            for left, across in zip(lefts, rims[1], strict=True):
                rows = np.arange(top, top + len(down))[:, None] * width + np.arange(left, left + len(across))
                window = torch.from_numpy(np.ascontiguousarray(feats(rows.reshape(-1)), np.float32))
                probs = _average(model, window.view(*rows.shape, -1), protocol.votes, device)
                weight = (down[:, None] * across)[:, :, None]
                part = held[top - first : top - first + len(down), left : left + len(across)]
                part += torch.cat([weight * probs, weight], 2)
            done = (tops[number + 1] if number + 1 < len(tops) else height) - first
            sums = held[:done].reshape(-1, num_classes + 1)
            yield np.arange(first * width, (first + done) * width), sums[:, :-1] / sums[:, -1:]
            held, first = held[done:], first + done
    finally:
        model.train(was_training)


@torch.no_grad()
def _average(model: nn.Module, window: Tensor, votes: int, device: torch.device) -> Tensor:  # (H, W, C) -> (H, W, K)
    """Mean probabilities of the views of a window."""
    views = [_forward(model, _turned(window, vote), device) for vote in range(votes)]
    return torch.stack([_turned_back(probs, vote) for vote, probs in enumerate(views)]).mean(0)


def _forward(model: nn.Module, window: Tensor, device: torch.device) -> Tensor:  # (H, W, C) -> (H, W, K)
    batch = image_batch(window).to(device)
    logits = model(batch, model.levels(batch)).logits  # pyright: ignore[reportCallIssue]
    return torch.softmax(logits.float(), 1).cpu().view(*window.shape[:2], -1)


def _turned(window: Tensor, vote: int) -> Tensor:  # (H, W, C)
    """The view of a vote: as it is, mirrored, turned by half, that mirrored, then by a quarter."""
    turned = torch.rot90(window, _QUARTERS[vote // 2], (0, 1))
    return turned.flip(1) if vote % 2 else turned


def _turned_back(window: Tensor, vote: int) -> Tensor:
    straight = window.flip(1) if vote % 2 else window
    return torch.rot90(straight, -_QUARTERS[vote // 2], (0, 1))


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
