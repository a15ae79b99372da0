"""Kernel dispositions: regular, scaled as documented, the same every time."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from pcseg.models.kernel_points import MEAN_RADIUS, _energy, kernel_points, optimise

SIZES = [(15, 2, "centre"), (15, 3, "centre"), (15, 3, "vertical"), (9, 2, "vertical"), (7, 3, "centre")]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_centre_is_fixed_and_mean_radius_is_one_and_a_half_sigma(size):
    points = kernel_points(*size)
    assert points.shape == size[:2]
    assert np.array_equal(points[0], np.zeros(size[1]))
    assert np.linalg.norm(points[1:], axis=1).mean() == pytest.approx(MEAN_RADIUS)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_points_stand_apart_and_balance(size):
    points = kernel_points(*size)
    assert pdist(points).min() > (1.3 if size[1] == 3 else 0.9)
    assert np.abs(points.mean(0)).max() < 0.01


@pytest.mark.parametrize(("num_points", "vertices"), [(7, "octahedron"), (5, "tetrahedron"), (3, "segment")])
def test_small_kernels_are_the_known_polyhedra(num_points, vertices):
    outer = kernel_points(num_points, 3)[1:]
    cosines = (outer @ outer.T) / MEAN_RADIUS**2
    angles = cosines[~np.eye(len(outer), dtype=bool)].round(3)
    expected = {"octahedron": {-1.0, 0.0}, "tetrahedron": {-0.333}, "segment": {-1.0}}[vertices]
    assert {float(a) + 0.0 for a in angles} == expected


@pytest.mark.parametrize("size", [(15, 2, "centre"), (15, 3, "centre")], ids=str)
def test_stored_disposition_is_what_the_optimiser_finds(size):
    computed, stored = optimise(*size), kernel_points(*size)
    for measure in (pdist, lambda p: np.linalg.norm(p, axis=1)):  # equal up to a rotation and a renumbering
        np.testing.assert_allclose(np.sort(measure(computed)), np.sort(measure(stored)), atol=0.02)


def test_vertical_layout_keeps_two_points_on_the_last_axis():
    points = kernel_points(15, 3, "vertical")
    assert np.array_equal(points[1:3, :2], np.zeros((2, 2)))
    assert points[1, 2] > 1 and points[2, 2] < -1


def test_energy_gradient_matches_finite_differences():
    rng = np.random.default_rng(1)
    flat, free = rng.normal(size=12), np.ones((4, 3))
    _, gradient = _energy(flat, free)
    step = 1e-6
    numeric = [(_energy(flat + step * e, free)[0] - _energy(flat - step * e, free)[0]) / (2 * step) for e in np.eye(12)]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_same_bits_every_time_and_read_only():
    assert np.array_equal(optimise(6, 3), optimise(6, 3))
    with pytest.raises(ValueError, match="read-only"):
        kernel_points(15, 3)[0] = 1.0


def test_one_point_is_the_centre():
    assert np.array_equal(kernel_points(1, 3), np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 3), "at least 1 point"), ((15, 4), "2 or 3 dimensions"), ((2, 3, "vertical"), "at least 3 points")],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel_points(*arguments)
