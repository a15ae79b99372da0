"""farthest_point_sample against plain PyTorch, a NumPy loop and fpsample, row for row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.farthest_cases import FARTHEST_CASES, Sampling
from ops.search_cases import uniform
from torch import Tensor

from pcseg.batch import offsets_of
from pcseg.ops import farthest_point_sample, reference


def on(device: torch.device, case: Sampling) -> tuple[tuple, dict]:
    moved = [value.to(device) if isinstance(value, Tensor) else value for value in case]
    return (moved[0], moved[1]), {"offsets": moved[2], "start": moved[3]}


@pytest.mark.parametrize("case", FARTHEST_CASES)
def test_equals_reference(case, device):
    arguments, options = on(device, FARTHEST_CASES[case]())
    rows = farthest_point_sample(*arguments, **options)
    assert rows.dtype == torch.int64
    assert torch.equal(rows, reference.farthest_point_sample(*arguments, **options))


@pytest.mark.parametrize("case", FARTHEST_CASES)
def test_every_instruction_set(case, isa):
    arguments, options = on(torch.device("cpu"), FARTHEST_CASES[case]())
    expected = reference.farthest_point_sample(*arguments, **options)
    assert torch.equal(farthest_point_sample(*arguments, **options), expected)


def numpy_loop(coords: np.ndarray, count: int, start: int) -> list[int]:
    sq_dist = np.full(len(coords), np.inf, coords.dtype)
    rows = [start]
    while len(rows) < count:
        apart = coords - coords[rows[-1]]
        apart *= apart
        sq_dist = np.minimum(sq_dist, (apart[:, 0] + apart[:, 1]) + apart[:, 2])
        sq_dist[rows[-1]] = -1
        rows.append(int(sq_dist.argmax()))  # the first of equals
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_numpy_loop(dtype):
    coords = torch.cat([uniform(20_000, 3, dtype), uniform(10_000, 3, dtype, seed=1) * 0.1]) * 50 + 1e5
    rows = farthest_point_sample(coords, 1500, start=29_000)
    assert rows.tolist() == numpy_loop(coords.numpy(), 1500, 29_000)


def test_equals_fpsample():
    fpsample = pytest.importorskip("fpsample")
    coords = uniform(20_000, 3)
    expected = fpsample.fps_sampling(coords.numpy(), 2000, start_idx=17)
    np.testing.assert_array_equal(farthest_point_sample(coords, 2000, start=17).numpy(), expected)


def test_threads_do_not_change_rows(threads):
    coords = uniform(200_000, 3)
    coords[50_000:] *= 0.01
    batch = offsets_of([120_000, 0, 3, 60_000, 19_997])
    rows, in_clouds = farthest_point_sample(coords, 300), farthest_point_sample(coords, 300, offsets=batch)
    torch.set_num_threads(1)
    assert torch.equal(rows, farthest_point_sample(coords, 300))
    assert torch.equal(in_clouds, farthest_point_sample(coords, 300, offsets=batch))


@pytest.mark.parametrize("case", ["3d", "2d", "ties", "pixels", "duplicates", "uneven"])
def test_fewer_samples_are_a_prefix(case):
    coords, count, _, start = FARTHEST_CASES[case]()
    rows = farthest_point_sample(coords, len(coords), start=start)
    assert torch.equal(rows.sort()[0], torch.arange(len(coords)))
    for fewer in (0, 1, 2, 20, 32, 33, count):
        assert torch.equal(farthest_point_sample(coords, fewer, start=start), rows[:fewer])


def test_a_batch_is_its_clouds():
    coords, counts, offsets, start = FARTHEST_CASES["clouds_each"]()
    assert isinstance(counts, Tensor) and isinstance(offsets, Tensor) and isinstance(start, Tensor)
    rows = farthest_point_sample(coords, counts, offsets=offsets, start=start)
    each = [
        first + farthest_point_sample(coords[first:last], count, start=row)
        for first, last, count, row in zip(offsets.tolist(), offsets[1:].tolist(), counts.tolist(), start.tolist())
    ]
    assert torch.equal(rows, torch.cat(each))


def test_permuted_rows_give_the_same_points():
    coords = uniform(3000, 3)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    start = int((order == 5).nonzero())
    permuted = farthest_point_sample(coords[order], 500, start=start)
    assert torch.equal(order[permuted], farthest_point_sample(coords, 500, start=5))


def test_plane_in_space_equals_plane():
    coords = uniform(2000, 2)
    flat = torch.cat([coords, torch.zeros(2000, 1)], 1)
    assert torch.equal(farthest_point_sample(coords, 300), farthest_point_sample(flat, 300))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_clouds(data):
    lengths = data.draw(st.lists(st.integers(0, 70), max_size=4))
    dims, cells = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1, 3, 1000]))
    coords = (uniform(sum(lengths), dims, seed=data.draw(st.integers(0, 99))) * cells).round()
    counts = torch.tensor([data.draw(st.integers(0, 80)) for _ in lengths], dtype=torch.int64)
    start = torch.tensor([data.draw(st.integers(0, max(n - 1, 0))) for n in lengths], dtype=torch.int64)
    options = {"offsets": offsets_of(lengths), "start": start}
    expected = reference.farthest_point_sample(coords, counts, **options)
    assert torch.equal(farthest_point_sample(coords, counts, **options), expected)


def test_many_clouds():
    lengths = torch.arange(70_000) % 12
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    coords = uniform(int(offsets[-1]), 3)
    rows = farthest_point_sample(coords, 5, offsets=offsets)
    counts = lengths.clamp(max=5)
    assert torch.equal(torch.bucketize(rows, offsets, right=True) - 1, torch.arange(70_000).repeat_interleave(counts))
    some = slice(0, int(offsets[600]))
    expected = reference.farthest_point_sample(coords[some], 5, offsets=offsets[:601])
    assert torch.equal(rows[: len(expected)], expected)


def test_a_million_duplicates():
    rows = farthest_point_sample(torch.full((1_000_000, 3), 0.1), 3000, start=999_999)
    assert rows.tolist() == [999_999, *range(2999)]
    coords = torch.cat([torch.zeros(500_000, 3), torch.ones(500_000, 3), torch.full((1, 3), 1e6)])
    assert farthest_point_sample(coords, 5).tolist() == [0, 1_000_000, 500_000, 1, 2]


@pytest.mark.parametrize("case", ["3d", "2d_f64", "clouds_each", "no_point", "no_cloud"])
def test_opcheck(case):
    coords, counts, offsets, start = FARTHEST_CASES[case]()
    offsets = offsets_of([len(coords)]) if offsets is None else offsets
    sample_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), offsets.diff().clamp(max=counts).cumsum(0)])
    start = start if isinstance(start, Tensor) else torch.full((len(offsets) - 1,), start)
    for total in (-1, int(sample_offsets[-1])):
        arguments = coords, offsets, sample_offsets, start, total
        torch.library.opcheck(torch.ops.pcseg.farthest_point_sample, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    def centred(coords, num_samples, offsets=None):
        return coords[farthest_point_sample(coords, num_samples, offsets=offsets)] - 0.5

    compiled = torch.compile(centred, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    coords, offsets = uniform(500, 3), offsets_of([200, 300])
    for arguments in ((coords, 40), (coords, 40, offsets), (coords, torch.tensor([3, 9]), offsets)):
        assert torch.equal(compiled(*arguments), centred(*arguments))


def test_no_gradient_and_none_asked():
    coords = uniform(50, 3).requires_grad_()
    assert not farthest_point_sample(coords, 5).requires_grad


NAN = torch.zeros(9, 3)
NAN[6, 1], NAN[8, 0] = torch.nan, torch.inf


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.zeros(3), 1), {}, ValueError, r"coords must be \(N, D\) with D in 1..8, got \(3,\)"),
        ((torch.zeros(3, 9), 1), {}, ValueError, r"D in 1..8, got \(3, 9\)"),
        ((torch.zeros(3, 3).half(), 1), {}, TypeError, "cast to float32"),
        ((torch.zeros(3, 3, dtype=torch.int64), 1), {}, TypeError, "must be float32 or float64, got torch.int64"),
        ((torch.zeros(3, 3), -1), {}, ValueError, "num_samples must be at least 0, got -1"),
        ((torch.zeros(3, 3), 1.5), {}, TypeError, r"num_samples must be an int or a \(B,\) int64 tensor, got float"),
        ((torch.zeros(3, 3), torch.ones(2, dtype=torch.int64)), {}, ValueError, r"num_samples must be \(B,\) = \(1,\)"),
        ((torch.zeros(3, 3), torch.ones(1)), {}, TypeError, "num_samples must be int64"),
        ((torch.zeros(3, 3), torch.tensor([-1])), {}, ValueError, "num_samples must be at least 0"),
        ((torch.zeros(3, 3), 1), {"start": -1}, ValueError, "start must be at least 0, got -1"),
        (
            (torch.zeros(3, 3), 1),
            {"start": 3},
            ValueError,
            "start must lie in its cloud, got 3 for cloud 0 of 3 points",
        ),
        ((torch.zeros(3, 3), 1), {"start": torch.zeros(1)}, TypeError, "start must be int64"),
        ((torch.zeros(3, 3), 1), {"offsets": torch.tensor([0, 2])}, ValueError, "offsets must ascend from 0"),
        ((torch.zeros(3, 3), 1), {"offsets": torch.tensor([0, 2, 1, 3])}, ValueError, "offsets must ascend"),
        ((torch.zeros(3, 3), 1), {"offsets": torch.tensor([0, 2, 9, 3])}, ValueError, "offsets must ascend"),
        ((torch.zeros(3, 3), 1), {"offsets": torch.tensor([0.0, 3.0])}, TypeError, "offsets must be int64"),
        ((NAN, 1), {}, ValueError, "coords must be finite, row 6 is not"),
        ((NAN, 0), {}, ValueError, "coords must be finite, row 6 is not"),
    ],
)
def test_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        farthest_point_sample(*arguments, **options)
