"""Networks: one class each, told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pcseg.config.base import Config


class KPConvConfig(Config):
    """The KPConv encoder-decoder (Thomas et al. 2019). Lengths are in voxels of the level they apply to.

    Sources of the defaults: paper section 4 and supplementary material for ``sigma`` 1.0, ``radius`` 2.5 (= 2.5 sigma),
    15 kernel points, two blocks a level, batch norm momentum 0.02 (the weight of the new value). The authors' PyTorch
    code uses sigma 1.2 and ``deform_radius`` 6.0 (the paper 5.0).
    """

    on_grid: ClassVar[bool] = False
    kind: Literal["kpconv"] = "kpconv"
    dim: Literal[2, 3] = 3
    voxel_size: float = Field(gt=0)
    """Edge of a voxel of level 0, in the unit of the coordinates; it doubles from level to level."""
    num_levels: int = Field(default=5, ge=1)
    width: int = Field(default=64, ge=8, multiple_of=8)
    """Channels of level 0; they double from level to level."""
    blocks_per_level: int = Field(default=2, ge=2)
    """Convolutions on each level: the stem or the strided block, then bottleneck blocks."""
    kernel_points: int = Field(default=15, ge=1)
    kernel_layout: Literal["centre", "vertical"] = "centre"
    radius: float = Field(default=2.5, gt=0)
    deform_radius: float = Field(default=6.0, gt=0)
    sigma: float = Field(default=1.0, gt=0)
    """Distance at which the influence of a kernel point ends."""
    max_neighbors: tuple[int, ...] | None = None
    """Length of the neighbour lists of each level; None: complete lists, however long. Training fills it in."""
    deformable_levels: tuple[int, ...] = ()
    modulated: bool = False
    """Deformable kernels also weigh each kernel point by 2 sigmoid(...) in (0, 2)."""
    norm: Literal["batch", "group"] = "batch"
    norm_momentum: float = Field(default=0.02, gt=0, le=1)

    @model_validator(mode="after")
    def _levels_fit(self) -> KPConvConfig:
        if self.max_neighbors is not None:
            if len(self.max_neighbors) != self.num_levels:
                raise ValueError(f"max_neighbors needs {self.num_levels} values, one a level, got {self.max_neighbors}")
            if min(self.max_neighbors) < 1:
                raise ValueError(f"max_neighbors must be at least 1, got {self.max_neighbors}")
        if any(not 0 <= level < self.num_levels for level in self.deformable_levels):
            raise ValueError(f"deformable_levels must lie in [0, {self.num_levels}), got {self.deformable_levels}")
        return self

    @property
    def radii(self) -> tuple[float, ...]:
        """Neighbourhood radius of each level, in that level's voxels: deformable kernels need room to spread."""
        return tuple(
            self.deform_radius if level in self.deformable_levels else self.radius for level in range(self.num_levels)
        )


class PointTransformerConfig(Config):
    """Point Transformer (Zhao et al. 2021). ``voxel_size`` is in the unit of the coordinates.

    The defaults are those of the authors' segmentation network (their code; the paper's figure 3 has the same widths,
    16 neighbours on every level and a weight of its own for each channel, ``share=1``).
    """

    on_grid: ClassVar[bool] = False
    kind: Literal["point_transformer"] = "point_transformer"
    dim: Literal[2, 3] = 3
    voxel_size: float = Field(gt=0)
    """Edge of a voxel of level 0."""
    widths: tuple[int, ...] = Field(default=(32, 64, 128, 256, 512), min_length=1)
    """Channels of each level."""
    encoder_blocks: tuple[int, ...] = (1, 2, 3, 5, 2)
    """Attention blocks of each level, the transition down not counted."""
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1, 1)
    """Attention blocks of each level after the transition up."""
    neighbors: tuple[int, ...] = (8, 16, 16, 16, 16)
    """Length of the neighbour lists of each level, for attention; and of pooling into it."""
    share: int = Field(default=8, ge=1)
    """Channels that share one attention weight; 1: each has its own, as in the paper."""
    pooling: Literal["farthest", "grid"] = "farthest"
    """How the points of a coarser level are chosen: farthest points, or the barycentres of voxels twice as large."""
    stride: int = Field(default=4, ge=2)
    """Points of a level for each of the next, with farthest points."""
    norm_momentum: float = Field(default=0.1, gt=0, le=1)
    """Weight of the new batch in the running statistics of the batch norms."""

    @model_validator(mode="after")
    def _levels_fit(self) -> PointTransformerConfig:
        levels = len(self.widths)
        for name, least in (("encoder_blocks", 0), ("decoder_blocks", 0), ("neighbors", 1)):
            values = getattr(self, name)
            if len(values) != levels or min(values) < least:
                raise ValueError(f"{name} needs {levels} values of at least {least}, one a level, got {values}")
        if min(self.widths) < 1:
            raise ValueError(f"widths must be at least 1, got {self.widths}")
        if any(width % self.share for width in self.widths):
            raise ValueError(f"widths must be multiples of share {self.share}, got {self.widths}")
        return self

    @property
    def num_levels(self) -> int:
        return len(self.widths)


EncoderSetting = bool | int | float | str | tuple[int, ...]


class EncoderConfig(Config):
    """What the networks share whose encoder is one of ``transformers``; they read whole windows of pixels."""

    on_grid: ClassVar[bool] = True
    dim: Literal[2] = 2
    weights: str | None = None
    """Folder or hub id of encoder weights in the format of ``transformers``; None: random ones."""
    encoder: dict[str, EncoderSetting] | None = None
    """Settings of the encoder as ``transformers`` names them; they come before the sizes below. Where ``weights`` are
    given and this is None, training fills it in from their ``config.json``: a checkpoint then needs it no more."""
    freeze: bool = False
    """Keep the encoder as it is, the statistics of its norms included, and train the rest."""

    @property
    def voxel_size(self) -> float:
        """One pixel."""
        return 1.0


class DeepLabConfig(EncoderConfig):
    """DeepLabV3+ (Chen et al. 2018) on ResNet or MobileNetV2."""

    kind: Literal["deeplab"] = "deeplab"
    backbone: Literal["resnet50", "resnet101", "mobilenet_v2"] = "resnet101"
    output_stride: Literal[8, 16, 32] = 16
    """Of the encoder's last map; below 32 its last stages dilate instead of striding."""
    decoder_channels: int = Field(default=256, ge=8)
    """Of the decoder, and of each branch of the pyramid of dilated convolutions."""
    low_level_channels: int = Field(default=48, ge=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    norm_momentum: float = Field(default=0.1, gt=0, le=1)
    """Weight of a batch in the running statistics of every batch norm, the encoder's included."""

    @property
    def family(self) -> str:
        return "mobilenet_v2" if self.backbone == "mobilenet_v2" else "resnet"

    @property
    def settings(self) -> dict[str, Any]:
        """Of the encoder, as ``transformers`` names them."""
        depths = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
        sizes = {"depths": depths[self.backbone]} if self.backbone in depths else {}
        return {**sizes, **(self.encoder or {})}


class ViTConfig(EncoderConfig):
    """A plain vision transformer with a linear layer on its patch tokens."""

    kind: Literal["vit"] = "vit"
    family: Literal["vit", "dinov2"] = "vit"
    image_size: int = Field(default=224, ge=8)
    """Edge for which the position table is made; other sizes interpolate it."""
    patch_size: int = Field(default=16, ge=2)
    hidden: int = Field(default=768, ge=8)
    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> ViTConfig:
        if self.hidden % self.heads:
            raise ValueError(f"heads must divide hidden {self.hidden}, got {self.heads}")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """Of the encoder, as ``transformers`` names them."""
        sizes: dict[str, Any] = {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }
        if self.family == "vit":  # DINOv2 names the ratio, which is 4 unless it is set
            sizes["intermediate_size"] = 4 * self.hidden
        return {**sizes, **(self.encoder or {})}


class SwinConfig(EncoderConfig):
    """Swin Transformer (Liu et al. 2021) with a decoder of linear layers."""

    kind: Literal["swin"] = "swin"
    embed: int = Field(default=96, ge=8)
    """Channels of the first stage; they double from stage to stage."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = Field(default=7, ge=2)
    decoder_channels: int = Field(default=256, ge=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _stages_fit(self) -> SwinConfig:
        if not self.depths or len(self.depths) != len(self.heads) or min(*self.depths, *self.heads) < 1:
            raise ValueError(
                f"depths and heads need a value of at least 1 for each stage, got {self.depths} and {self.heads}"
            )
        if any((self.embed << stage) % heads for stage, heads in enumerate(self.heads)):
            raise ValueError(
                f"heads must divide the channels of their stage, from embed {self.embed}, got {self.heads}"
            )
        return self

    @property
    def family(self) -> str:
        return "swin"

    @property
    def settings(self) -> dict[str, Any]:
        """Of the encoder, as ``transformers`` names them."""
        sizes = {
            "embed_dim": self.embed,
            "depths": self.depths,
            "num_heads": self.heads,
            "window_size": self.window,
        }
        return {**sizes, **(self.encoder or {})}


class HeadConfig(Config):
    """A linear layer, or a perceptron with hidden layers, on each row's own features: another network's frozen ones."""

    on_grid: ClassVar[bool] = False
    kind: Literal["head"] = "head"
    dim: Literal[2, 3] = 3
    voxel_size: float = Field(gt=0)
    """Rows that share a voxel are averaged; well below their distance: each row is itself."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers; none: a linear layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)


ModelConfig = Annotated[
    KPConvConfig | PointTransformerConfig | DeepLabConfig | ViTConfig | SwinConfig | HeadConfig,
    Field(discriminator="kind"),
]
