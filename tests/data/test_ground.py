"""The ground model: flat ground, slopes, hills, wide buildings, stray echoes, small scenes."""

import numpy as np
import pytest

from pcseg.datasets.ground import GroundSettings, fill_holes, fit_ground


def cloud(ground, *, size: float, objects=(), per_cell: int = 3, step: float = 1.0, seed: int = 0):
    """Points scattered over a square; ``ground(x, y)`` and boxes (x0, x1, y0, y1, height) that hide it."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((2, int(per_cell * (size / step) ** 2))) * size
    base = ground(x, y)
    z, is_ground = base.copy(), np.ones(len(x), bool)
    for x0, x1, y0, y1, height in objects:
        inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
        z[inside], is_ground[inside] = base[inside] + height, False
    return np.stack([x, y, z], 1), is_ground


def error(points, true_height, settings=None):
    model = fit_ground(lambda: iter(np.array_split(points, 3)), settings)
    return model.height(points) - true_height


def test_a_building_of_60_m_is_not_swallowed_on_a_slope():
    points, is_ground = cloud(lambda x, y: 0.1 * x, size=150, objects=[(40, 100, 30, 90, 8.0), (110, 120, 20, 40, 4.0)])
    wrong = np.abs(error(points, np.where(is_ground, 0, points[:, 2] - 0.1 * points[:, 0])))
    assert np.median(wrong[is_ground]) < 0.1 and np.quantile(wrong, 0.99) < 0.8


def test_a_building_that_fills_a_corner_of_the_scene_stands_out():
    points, _ = cloud(lambda x, y: 0 * x, size=60, objects=[(25, 61, 20, 61, 12.0)])
    assert np.quantile(np.abs(error(points, points[:, 2])), 0.99) < 0.5


def test_a_hill_higher_than_houses_stays_ground():
    def hill(x, y):
        return 25 * np.exp(-((x - 100) ** 2 + (y - 100) ** 2) / (2 * 40.0**2))

    points, is_ground = cloud(hill, size=200, objects=[(95, 105, 95, 110, 6.0)])
    wrong = np.abs(error(points, np.where(is_ground, 0, 6.0)))
    assert np.quantile(wrong[is_ground], 0.95) < 0.8
    assert np.median(wrong[~is_ground]) < 1.0


def test_stray_echoes_below_do_not_pull_the_ground_down():
    points, _ = cloud(lambda x, y: 0 * x, size=80)
    stray = np.array([[20.5, 20.5, -15.0], [60.2, 30.7, -30.0]])
    model = fit_ground(lambda: iter([np.concatenate([points, stray])]))
    assert np.abs(model.height(points)).max() < 0.05


def test_holes_and_sparse_points_are_bridged():
    points, _ = cloud(lambda x, y: 0.2 * x, size=100)
    hole = (points[:, 0] > 30) & (points[:, 0] < 60) & (points[:, 1] > 30) & (points[:, 1] < 60)
    model = fit_ground(lambda: iter([points[~hole]]))
    assert np.abs(model.height(points[hole])).max() < 2.0
    sparse = points[::200]
    assert np.abs(fit_ground(lambda: iter([sparse])).height(sparse)).max() < 5.0


def test_a_table_top_scene_is_measured_with_a_finer_grid():
    points, _ = cloud(
        lambda x, y: 0 * x, size=1.2, step=0.01, objects=[(0.3, 0.5, 0.3, 0.6, 0.15), (0.8, 0.9, 0.2, 0.3, 0.08)]
    )
    model = fit_ground(lambda: iter([points]))
    assert model.cell < 0.05
    assert np.quantile(np.abs(model.height(points) - points[:, 2]), 0.99) < 0.02


def test_memory_is_bounded_by_growing_cells_and_one_point_is_enough():
    far = np.array([[0.0, 0, 5], [9e5, 9e5, 7]])
    model = fit_ground(lambda: iter([far]))
    assert model.elevation.size < 2**25 and np.isfinite(model.height(far)).all()
    one = np.array([[3.0, 4.0, 5.0]])
    assert abs(fit_ground(lambda: iter([one])).height(one)[0]) < 1e-6
    line = np.stack([np.linspace(0, 100, 500), np.zeros(500), np.ones(500)], 1)
    assert np.abs(fit_ground(lambda: iter([line])).height(line)).max() < 1e-5


def test_labels_and_order_play_no_part():
    points, _ = cloud(lambda x, y: 0.05 * y, size=60, objects=[(10, 30, 10, 30, 5.0)])
    shuffled = np.random.default_rng(1).permutation(points)
    a, b = fit_ground(lambda: iter([points])), fit_ground(lambda: iter(np.array_split(shuffled, 7)))
    np.testing.assert_array_equal(a.elevation, b.elevation)


def test_fill_holes_keeps_what_is_known_and_averages_the_rest():
    values = np.array([[1, np.inf, 3], [np.inf, np.inf, np.inf], [1, np.inf, 3]], np.float32)
    filled = fill_holes(values, np.isfinite(values))
    assert (filled[::2, ::2] == [[1, 3], [1, 3]]).all()
    assert ((filled >= 1) & (filled <= 3)).all()


def test_errors():
    with pytest.raises(ValueError, match="no points"):
        fit_ground(lambda: iter([]))
    with pytest.raises(ValueError, match="cell must be positive, got 0"):
        GroundSettings(cell=0)
