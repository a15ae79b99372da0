"""Which labels of a data set stay visible: the recipes of weak labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pcseg.config.base import Config

Reveal = Literal["one", "all"]


class RatioRecipe(Config):
    """A share of the labels of each scene, drawn at random.

    Of voxels where there is a voxel size, as ERDA draws (Tang et al. 2023, code): max(floor(ratio * n), 1) of the n
    voxels of each class. Else of rows.
    """

    kind: Literal["ratio"] = "ratio"
    ratio: float = Field(gt=0, le=1)
    """Share of the labelled voxels or rows: 0.01, 0.001."""
    stratified: bool = True
    """Of each class by itself, and at least one of each; else of all labelled ones alike, and at least one."""
    reveal: Reveal = "one"
    """What shows the label of a voxel: the point of its class nearest to its barycentre, or all points of its class."""


class PointsRecipe(Config):
    """A number of labels, drawn at random: of voxels where there is a voxel size, else of rows; all, if it has less."""

    kind: Literal["points"] = "points"
    count: int = Field(ge=1)
    per: Literal["class_and_scene", "class", "scene"] = "class"
    """``class``: so many of each class over all scenes together; ``class_and_scene``: of each class in each scene;
    ``scene``: in each scene, of any class."""
    reveal: Reveal = "one"
    """What shows the label of a voxel: the point of its class nearest to its barycentre, or all points of its class."""


class ClicksRecipe(Config):
    """One row of every object, or several, drawn at random.

    Objects are the instances of a scene's column ``instances``. Labelled rows without an instance, and scenes without
    that column, count each connected component of a class as an object.
    """

    kind: Literal["clicks"] = "clicks"
    count: int = Field(default=1, ge=1)
    """Of each object; all its rows, if it has less. 1 and 10: the point labels P1 and P10 of panoptic segmentation."""
    radius: float | None = Field(default=None, gt=0)
    """Distance within which two points of a class belong to one component, in the unit of the coordinates; the command
    takes five voxels of a scan where none is given."""
    min_rows: int = Field(default=1, ge=1)
    """Smaller objects get no click."""


class ScribblesRecipe(Config):
    """A stroke through every object (see the recipe of clicks): along its skeleton, or over its surface.

    In images, and in slices of volumes across z, along the skeleton of each connected component of a class. On clouds
    along the shortest path between two far points of the object, from neighbour to neighbour. Shorter strokes are parts
    of longer ones of the same seed.
    """

    kind: Literal["scribbles"] = "scribbles"
    share: float = Field(default=1.0, ge=0, le=1)
    """Of the whole stroke's length; 0: one row, a click."""
    radius: float | None = Field(default=None, gt=0)
    """Of clouds: distance within which two points of a class belong to one component, and the longest step. The
    command takes five voxels where none is given."""
    neighbors: int = Field(default=8, ge=2)
    """Of clouds: nearest points of the class to which a stroke may go on."""
    slice_step: int = Field(default=1, ge=1)
    """Of volumes: strokes in every n-th slice."""
    min_rows: int = Field(default=1, ge=1)
    """Smaller objects get no stroke."""


class BlocksRecipe(Config):
    """Whole blocks around random labelled rows, until they hold a share of the labels of the scene."""

    kind: Literal["blocks"] = "blocks"
    ratio: float = Field(gt=0, le=1)
    """Share of the labelled rows that is reached; the last block may go beyond it."""
    size: float = Field(gt=0)
    """Of images and volumes: edge of the square or cube, in pixels or voxels. Of clouds: diameter."""
    shape: Literal["column", "ball"] = "column"
    """Of clouds."""


class ScenesRecipe(Config):
    """All labels of some scenes, none of the others."""

    kind: Literal["scenes"] = "scenes"
    count: int | None = Field(default=None, ge=1)
    """Scenes drawn at random; a smaller number of the same seed draws some of them."""
    ids: tuple[str, ...] = ()
    """Or their names; or one text file with a name a line."""

    @model_validator(mode="after")
    def _one_of_both(self) -> ScenesRecipe:
        if (self.count is None) == (not self.ids):
            raise ValueError("give either count or ids")
        return self


class ListRecipe(Config):
    """The rows that files name: NAME.txt with a row index a line, or NAME.npy, of every scene."""

    kind: Literal["list"] = "list"
    folder: Path


Recipe = RatioRecipe | PointsRecipe | ClicksRecipe | ScribblesRecipe | BlocksRecipe | ScenesRecipe | ListRecipe
AnyRecipe = Annotated[Recipe, Field(discriminator="kind")]
RECIPES: tuple[type[Recipe], ...] = (
    RatioRecipe,
    PointsRecipe,
    ClicksRecipe,
    ScribblesRecipe,
    BlocksRecipe,
    ScenesRecipe,
    ListRecipe,
)
