"""What a run is made of: frozen, validated classes, each tagged by its ``kind``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class KPConvConfig(BaseModel):
    """The KPConv encoder-decoder (Thomas et al. 2019). Lengths are in voxels of the level they apply to.

    Sources of the defaults: paper section 4 and supplementary material for ``sigma`` 1.0, ``radius`` 2.5 (= 2.5 sigma),
    15 kernel points, two blocks a level, batch norm momentum 0.02 (the weight of the new value). The authors' PyTorch
    code uses sigma 1.2 and ``deform_radius`` 6.0 (the paper 5.0).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
