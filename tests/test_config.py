"""Config classes refuse what does not fit together."""

import pytest
from pydantic import ValidationError

from pcseg.config import KPConvConfig


def test_defaults_are_the_papers():
    config = KPConvConfig(voxel_size=0.4)
    assert (config.sigma, config.radius, config.kernel_points, config.num_levels) == (1.0, 2.5, 15, 5)
    assert config.radii == (2.5,) * 5


def test_deformable_levels_search_wider():
    assert KPConvConfig(voxel_size=0.4, num_levels=3, deformable_levels=(1,)).radii == (2.5, 6.0, 2.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_neighbors": (3, 4)}, "max_neighbors needs 5 values"),
        ({"max_neighbors": (3, 4, 0, 3, 3)}, "at least 1"),
        ({"deformable_levels": (5,)}, r"deformable_levels must lie in \[0, 5\)"),
        ({"width": 12}, "multiple of 8"),
        ({"typo": 1}, "Extra inputs"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValidationError, match=message):
        KPConvConfig(voxel_size=0.4, **change)


def test_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        KPConvConfig(voxel_size=0.4).width = 32  # pyright: ignore[reportAttributeAccessIssue]
