"""Prediction window by window gives every pixel its answer, wherever the windows lie."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pcseg.errors import InputError
from pcseg.inference import Protocol, probabilities
from pcseg.models import SegOutput
from pcseg.vote_views import VoteViews
from pcseg.window_inference import _starts, _turned, _turned_back, predict_windows


class Pixelwise(nn.Module):
    """Logits are the features; remembers what windows it saw."""

    def __init__(self):
        super().__init__()
        self.sizes: list[list[int]] = []

    def levels(self, batch):
        return ()

    def forward(self, batch, levels):
        self.sizes += batch.image_sizes.tolist()
        height, width = self.sizes[-1]
        assert batch.coords[-1].tolist() == [width - 1, height - 1] and batch.num_rows == height * width
        return SegOutput(batch.feats * 3.0, batch.feats)


class Convolution(Pixelwise):
    """Sees the pixels around, and which way is up."""

    def __init__(self):
        super().__init__()
        self.kernel = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def forward(self, batch, levels):
        feats = super().forward(batch, levels).feats
        height, width = self.sizes[-1]
        planes = functional.conv2d(feats.T.reshape(1, 3, height, width), self.kernel, padding=1)
        return SegOutput(planes.reshape(3, -1).T, feats)


def run(model: nn.Module, feats: np.ndarray, shape: tuple[int, int], protocol="full/votes=1/scene", **settings):
    settings = {"size": 16, "overlap": 0.5} | settings
    asked: list[int] = []

    def of_rows(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return feats[rows]

    pieces = predict_windows(
        model,
        of_rows,
        shape,
        answer=probabilities(3),
        protocol=Protocol.parse(protocol),
        device=torch.device("cpu"),
        **settings,
    )
    probs = torch.full((len(feats), 3), float("nan"))
    seen = np.zeros(len(feats), np.int64)
    lengths = []
    for rows, part in pieces:
        probs[torch.from_numpy(rows)] = part
        seen[rows] += 1
        lengths.append(len(rows))
    assert (seen == 1).all(), "every pixel comes exactly once"
    return probs, asked, lengths


def noise(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((shape[0] * shape[1], 3)).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 50), (16, 16), (5, 70), (33, 4), (1, 1), (17, 17)])
@pytest.mark.parametrize("protocol", ["full/votes=1/scene", "full/votes=8/scene", "full/votes=1/tile"])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5])
def test_every_pixel_gets_its_answer(shape, protocol, overlap):
    feats, model = noise(shape), Pixelwise()
    probs, _, _ = run(model, feats, shape, protocol, overlap=overlap)
    torch.testing.assert_close(probs, torch.softmax(torch.from_numpy(feats) * 3.0, 1), atol=1e-5, rtol=1e-5)
    assert all(height <= 16 and width <= 16 for height, width in model.sizes)


@pytest.mark.parametrize("shape", [(16, 16), (9, 12)])
def test_an_image_that_fits_is_one_window(shape):
    feats, model = noise(shape), Convolution()
    probs, _, _ = run(model, feats, shape)
    assert model.sizes == [list(shape)]
    expected = torch.softmax(model(_batch(feats, shape), ()).logits, 1)
    torch.testing.assert_close(probs, expected)


def _batch(feats: np.ndarray, shape: tuple[int, int]):
    from pcseg.batch import PointBatch, offsets_of

    y, x = np.indices(shape)
    return PointBatch(
        coords=torch.from_numpy(np.stack([x, y], 2).reshape(-1, 2)).float(),
        feats=torch.from_numpy(feats),
        offsets=offsets_of([len(feats)]),
        image_sizes=torch.tensor([shape]),
    )


def test_the_middle_of_a_window_counts_most():
    """Two windows side by side: in their overlap the answer goes over from one to the other."""

    class Number(Pixelwise):
        def forward(self, batch, levels):
            super().forward(batch, levels)
            logits = torch.zeros(batch.num_rows, 3)
            logits[:, len(self.sizes) - 1] = 50.0
            return SegOutput(logits, batch.feats)

    probs, _, _ = run(Number(), noise((8, 24)), (8, 24))
    first = probs.view(8, 24, 3)[4, :, 0]
    assert (first[:8] > 0.999).all() and (first[16:] < 1e-3).all()
    assert (first[8:16].diff() < 0).all() and abs(float(first[11:13].mean()) - 0.5) < 1e-5


def test_tiles_are_not_averaged():
    model = Convolution()
    feats = noise((16, 40))
    probs, _, _ = run(model, feats, (16, 40), "full/votes=1/tile")
    assert len(model.sizes) == 3
    image = feats.reshape(16, 40, 3)
    for start, own in ((0, slice(0, 16)), (12, slice(16, 28)), (24, slice(28, 40))):
        window = image[:, start : start + 16].reshape(-1, 3)
        expected = torch.softmax(model(_batch(window, (16, 16)), ()).logits, 1).view(16, 16, 3)
        torch.testing.assert_close(probs.view(16, 40, 3)[:, own], expected[:, own.start - start : own.stop - start])


def test_votes_are_the_views_turned_back():
    feats, shape, model = noise((9, 12)), (9, 12), Convolution()
    probs, _, _ = run(model, feats, shape, "full/votes=8/scene")
    assert sorted(model.sizes) == [[9, 12]] * 4 + [[12, 9]] * 4
    window = torch.from_numpy(feats).view(9, 12, 3)
    turns = VoteViews().of_grid()
    views = [_turned(window, *turn) for turn in turns]
    assert len({view.numpy().tobytes() for view in views}) == 8, "all differ"
    assert all(torch.equal(_turned_back(view, *turn), window) for turn, view in zip(turns, views, strict=True))
    assert torch.equal(views[1], window.flip(1))
    expected = torch.zeros(9, 12, 3)
    for turn, view in zip(turns, views, strict=True):
        height, width = view.shape[:2]
        logits = model(_batch(view.reshape(-1, 3).numpy(), (height, width)), ()).logits
        expected += _turned_back(torch.softmax(logits, 1).view(height, width, 3), *turn) / 8
    torch.testing.assert_close(probs.view(9, 12, 3), expected)
    with pytest.raises(InputError, match=r"votes=9: .* has 8 views, .*; ask for votes=8"):
        run(model, feats, shape, "full/votes=9/scene")


def test_votes_are_only_what_training_showed():
    feats, shape = noise((9, 12)), (9, 12)
    mirrored = VoteViews(rotate=False, mirror=True)
    probs, _, _ = run(Convolution(), feats, shape, "full/votes=2/scene", views=mirrored)
    window, model = torch.from_numpy(feats).view(9, 12, 3), Convolution()
    seen = [window, window.flip(1)]
    values = [torch.softmax(model(_batch(v.reshape(-1, 3).numpy(), shape), ()).logits, 1).view(9, 12, 3) for v in seen]
    torch.testing.assert_close(probs.view(9, 12, 3), (values[0] + values[1].flip(1)) / 2)
    with pytest.raises(InputError, match="votes=3: this image network has 2 views"):
        run(model, feats, shape, "full/votes=3/scene", views=mirrored)
    with pytest.raises(InputError, match="votes=2: this image network has 1 view, "):
        run(model, feats, shape, "full/votes=2/scene", views=VoteViews(rotate=False, mirror=False))


def test_memory_goes_by_the_band():
    _, asked, lengths = run(Pixelwise(), noise((200, 30)), (200, 30))
    assert max(asked) == 256 and max(lengths) <= 16 * 30 and len(lengths) > 20


@pytest.mark.parametrize(("count", "size", "overlap"), [(100, 16, 0.5), (17, 16, 0.5), (1000, 7, 0.66), (33, 16, 0.0)])
def test_windows_reach_from_border_to_border(count, size, overlap):
    starts = _starts(count, size, overlap)
    assert starts[0] == 0 and starts[-1] == count - size
    steps = np.diff(starts)
    assert (steps > 0).all() and steps.max() <= max(1, np.ceil(size * (1 - overlap)))


def test_model_keeps_its_mode():
    model = Pixelwise().train()
    run(model, noise((4, 4)), (4, 4))
    assert model.training
