"""Changes of colour: the same for the points of a scan and the pixels of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pcseg.config import AugmentConfig
from pcseg.datasets.feature_contract import COLORS, OPPONENT, OPPONENT_COLOR, Feature, FeatureContract

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))  # of sRGB
_DAYLIGHT = (0.95047, 1.0, 1.08883)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_FROM_OPPONENT = torch.linalg.inv(torch.tensor(OPPONENT))  # once: on a GPU every inverse waits for the host


def recolored(
    feats: Tensor,  # (N, C) float32, scaled by the contract
    config: AugmentConfig,
    contract: FeatureContract,
    generator: torch.Generator,
) -> Tensor:  # (N, C)
    """Other brightness, contrast, saturation and hue, in this order and each clipped to [0, 1]; or no colour at all.

    The same factors for every row, and for every feature that holds colours. ``feats`` itself where nothing changes.
    """
    change = config.color > 0 and float(torch.rand((), generator=generator)) < config.color
    factors = [
        1.0 + largest * (2.0 * float(torch.rand((), generator=generator)) - 1.0)
        for largest in (config.brightness, config.contrast, config.saturation)
    ]
    turn = config.hue * (2.0 * float(torch.rand((), generator=generator)) - 1.0)
    gray = config.gray > 0 and float(torch.rand((), generator=generator)) < config.gray
    if not change and not gray:
        return feats
    feats = feats.clone()
    for feature, place in _colors(contract):
        rgb = unit_colors(feats[:, place], feature)
        if change:
            rgb = (rgb * factors[0]).clamp(0, 1)
            rgb = contrasted(rgb, factors[1])
            rgb = saturated(rgb, factors[2])
            rgb = hue_turned(rgb, turn)
        if gray:
            rgb = luma(rgb)[:, None].expand(-1, 3)
        feats[:, place] = _from_unit(rgb, feature)
    return feats


def luma(rgb: Tensor) -> Tensor:  # (N, 3) -> (N,)
    """Brightness as the eye weighs it."""
    return rgb @ rgb.new_tensor(_LUMA)


def contrasted(rgb: Tensor, factor: float) -> Tensor:  # (N, 3) in [0, 1]
    """Distance from the mean brightness of all rows, times ``factor``."""
    middle = luma(rgb).mean() if len(rgb) else 0.0
    return (middle + (rgb - middle) * factor).clamp(0, 1)


def saturated(rgb: Tensor, factor: float) -> Tensor:  # (N, 3) in [0, 1]
    """Distance from each row's own gray, times ``factor``."""
    gray = luma(rgb)[:, None]
    return (gray + (rgb - gray) * factor).clamp(0, 1)


def hue_turned(rgb: Tensor, turn: float) -> Tensor:  # (N, 3) in [0, 1]
    """The hue (of HSV) further along the circle of colours by a share ``turn`` of it."""
    if turn == 0 or not len(rgb):
        return rgb
    value, low = rgb.amax(1), rgb.amin(1)
    chroma = value - low
    red, green, blue = rgb.unbind(1)
    sector = torch.where(
        value == red,
        (green - blue) / chroma.clamp_min(1e-12) % 6.0,
        torch.where(
            value == green, (blue - red) / chroma.clamp_min(1e-12) + 2.0, (red - green) / chroma.clamp_min(1e-12) + 4.0
        ),
    )
    sector = sector + 6.0 * turn
    # Each channel falls from ``value`` by the chroma, along one third of the circle.
    where = (sector[:, None] + rgb.new_tensor([5.0, 3.0, 1.0])) % 6.0
    return value[:, None] - chroma[:, None] * torch.minimum(where, 4.0 - where).clamp(0, 1)


def blurred(
    feats: Tensor,  # (N, C) float32
    image_sizes: Tensor,  # (B, 2) int64
    sigma: float,
    contract: FeatureContract,
) -> Tensor:  # (N, C)
    """The colours of each image under a Gaussian of ``sigma`` pixels; the border repeats."""
    feats = feats.clone()
    reach = max(1, math.ceil(3 * sigma))
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel /= kernel.sum()
    for _, place in _colors(contract):
        start = 0
        for height, width in image_sizes.tolist():
            rows = slice(start, start + height * width)
            image = feats[rows, place].T.reshape(-1, 1, height, width)  # (3, 1, H, W)
            image = functional.pad(image, (reach, reach, reach, reach), mode="replicate")
            image = functional.conv2d(image, kernel.view(1, 1, 1, -1))
            image = functional.conv2d(image, kernel.view(1, 1, -1, 1))
            feats[rows, place] = image.reshape(image.shape[0], -1).T
            start += height * width
    return feats


def lab(rgb: Tensor) -> Tensor:  # (N, 3) in [0, 1] -> (N, 3)
    """CIE L*a*b* of sRGB colours under daylight (D65): L from 0 to 100; a difference of 1 is just seen."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4)
    xyz = linear @ rgb.new_tensor(_XYZ).T / rgb.new_tensor(_DAYLIGHT)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _colors(contract: FeatureContract) -> list[tuple[Feature, slice]]:
    pairs = zip(contract.features, contract.slices.values(), strict=True)
    return [(feature, place) for feature, place in pairs if feature.name in COLORS and len(feature.channels) == 3]


def _peak(feature: Feature) -> float:
    """What full intensity is: 1, or, of colours that a file keeps as floats, the depth that the largest one needs."""
    largest = max(channel.high for channel in feature.channels)
    return next((peak for peak in (1.0, 255.0) if largest <= peak), 65535.0)


def unit_colors(feats: Tensor, feature: Feature) -> Tensor:  # (N, 3) -> (N, 3) in [0, 1]
    """Red, green and blue as they were before the contract scaled them."""
    values = feature.restored(feats)
    if feature.name == OPPONENT_COLOR:
        values = values @ _FROM_OPPONENT.to(feats).T
    return (values / _peak(feature)).clamp(0, 1)


def _from_unit(rgb: Tensor, feature: Feature) -> Tensor:  # (N, 3) -> (N, 3)
    values = rgb * _peak(feature)
    if feature.name == OPPONENT_COLOR:
        values = values @ rgb.new_tensor(OPPONENT).T
    return feature.scaled(values)
