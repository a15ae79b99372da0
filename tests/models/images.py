"""Small images and small image networks."""

import torch

from pcseg.batch import PointBatch, offsets_of
from pcseg.config import DeepLabConfig, EncoderConfig, SwinConfig, ViTConfig

SIZES = [(40, 33), (33, 47), (40, 33)]
TINY_RESNET = {"depths": (1, 2, 2, 2), "hidden_sizes": (16, 24, 32, 40), "embedding_size": 8}
TINY_MOBILENET = {"depth_multiplier": 0.35}
TINY_TRANSFORMER = {"hidden": 24, "layers": 2, "heads": 3}
NARROW = {"decoder_channels": 16, "low_level_channels": 8}

TINY: dict[str, EncoderConfig] = {
    "resnet/16": DeepLabConfig(backbone="resnet50", encoder=TINY_RESNET, **NARROW),
    "resnet/8": DeepLabConfig(backbone="resnet50", encoder=TINY_RESNET, output_stride=8, **NARROW),
    "mobilenet/16": DeepLabConfig(backbone="mobilenet_v2", encoder=TINY_MOBILENET, **NARROW),
    "mobilenet/8": DeepLabConfig(backbone="mobilenet_v2", encoder=TINY_MOBILENET, output_stride=8, **NARROW),
    "vit": ViTConfig(image_size=32, patch_size=8, **TINY_TRANSFORMER),
    "dinov2": ViTConfig(family="dinov2", image_size=28, patch_size=7, **TINY_TRANSFORMER),
    "swin": SwinConfig(embed=8, depths=(1, 2, 1), heads=(1, 2, 4), window=3, decoder_channels=16),
}


def images(sizes: list[tuple[int, int]], channels: int = 3, seed: int = 0) -> PointBatch:
    """Random images, height and width of each in ``sizes``."""
    generator = torch.Generator().manual_seed(seed)
    grids = [torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1) for h, w in sizes]
    coords = torch.cat([torch.zeros(0, 2), *(grid.flip(-1).reshape(-1, 2) for grid in grids)])
    return PointBatch(
        coords=coords,
        feats=torch.randn(len(coords), channels, generator=generator),
        offsets=offsets_of([h * w for h, w in sizes]),
        image_sizes=torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
    )
