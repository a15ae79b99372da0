"""Shapes, values and gradients of Open3D-ML's PointTransformer (tests/golden/make_open3d_point_transformer.py)."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pcseg.batch import PointBatch
from pcseg.config import PointTransformerConfig
from pcseg.models import PointTransformerNet
from pcseg.pyramid import Level, build_knn_pyramid

GOLDEN = Path(__file__).parents[1] / "golden" / "open3d_point_transformer.npz"
NEIGHBORS, STRIDE = (4, 5, 5, 5, 5), 2

LAYERS = {
    "linear1.": "reduce.linear.",
    "bn1.": "reduce.norm.",
    "transformer2.linear_q.": "attention.query.",
    "transformer2.linear_k.": "attention.key.",
    "transformer2.linear_v.": "attention.value.",
    "transformer2.linear_p.0.": "attention.position.",
    "transformer2.linear_p.1.": "attention.position_norm.",
    "transformer2.linear_p.3.": "attention.position_out.",
    "transformer2.linear_w.0.": "attention.relation_norm.",
    "transformer2.linear_w.2.": "attention.relation.",
    "transformer2.linear_w.3.": "attention.weight_norm.",
    "transformer2.linear_w.5.": "attention.weight_out.",
    "bn2.": "attention_norm.",
    "linear3.": "expand.",
    "bn3.": "expand_norm.",
}
HEAD = {"0.": "head.linear.", "1.": "head.norm.", "3.": "classifier."}
BOTTOM = {"linear1.0.": "dense.", "linear1.1.": "norm.", "linear2.0.": "mean."}
UP = {
    "linear1.0.": "skip.linear.",
    "linear1.1.": "skip.norm.",
    "linear2.0.": "coarse.linear.",
    "linear2.1.": "coarse.norm.",
}
DOWN = {"linear.": "linear.", "bn.": "norm."}


def renamed(name, table):
    found = next(theirs for theirs in table if name.startswith(theirs))
    return table[found] + name.removeprefix(found)


def our_name(theirs):
    """Where Open3D-ML's network keeps what, in ours."""
    if theirs.startswith("cls."):
        return renamed(theirs.removeprefix("cls."), HEAD)
    part, stage, layer, rest = theirs.split(".", 3)
    stage, layer = int(stage), int(layer)
    level = stage if part == "encoders" else 4 - stage
    if layer > 0:
        return f"{part.removesuffix('s')}.{level}.{layer - 1}.{renamed(rest, LAYERS)}"
    if part == "encoders":
        return (f"down.{level - 1}." if level else "stem.") + renamed(rest, DOWN)
    return "bottom." + renamed(rest, BOTTOM) if level == 4 else f"up.{level}." + renamed(rest, UP)


def turned(name, value):
    """Their differences are neighbour minus query, ours query minus neighbour."""
    return -value if re.search(r"attention\.(query\.|key\.|position\.weight)", name) else value


def sizes_of(listed):
    return {name: tuple(map(int, shape)) for name, *shape in (line.split(" ") for line in listed.tolist())}


def unpacked(case, name):
    sizes = sizes_of(case[f"{name}.shapes"])
    parts = torch.from_numpy(case[f"{name}.values"]).split([math.prod(size) for size in sizes.values()])
    found = {theirs: part.view(size) for part, (theirs, size) in zip(parts, sizes.items(), strict=True)}
    return {our_name(theirs): turned(our_name(theirs), value) for theirs, value in found.items()}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def case_of(golden, name):
    return {key.removeprefix(f"{name}/"): value for key, value in golden.items() if key.startswith(f"{name}/")}


def tensor(values):
    values = torch.from_numpy(values)
    return values.long() if values.dtype == torch.int16 else values


@pytest.fixture
def case(golden):
    return case_of(golden, "network")


@pytest.fixture
def net(case):
    config = PointTransformerConfig(
        voxel_size=1.0,
        widths=(8, 8, 8, 8, 16),
        encoder_blocks=(1, 1, 1, 1, 1),
        decoder_blocks=(1, 1, 1, 1, 1),
        neighbors=NEIGHBORS,
        share=4,
        stride=STRIDE,
    )
    net = PointTransformerNet(config, in_channels=5, num_classes=4)
    net.load_state_dict(unpacked(case, "state"), strict=True)
    return net


def levels_of(case):
    """Their lists, and their weights: they take 1 / squared distance, the authors and we 1 / distance."""
    names = ("coords", "offsets", "neighbors", "pool", "interpolate", "interpolate_weights")
    found = [{n: tensor(case[f"{n}.{i}"]) for n in names if f"{n}.{i}" in case} for i in range(5)]
    return [Level(**level, complete=True) for level in found]


def batch_of(case):
    coords = tensor(case["coords.0"])
    feats = torch.cat([coords, tensor(case["feats"])], 1)  # which their network does itself
    return PointBatch(coords=coords, feats=feats, offsets=tensor(case["offsets.0"]))


@pytest.mark.parametrize("settings", ["shapes_default", "shapes_paper"])
def test_parameter_counts_and_shapes(golden, settings):
    case = case_of(golden, settings)
    blocks = tuple(int(n) - 1 for n in case["blocks"])  # theirs count the transition down
    with torch.device("meta"):
        net = PointTransformerNet(PointTransformerConfig(voxel_size=0.04, encoder_blocks=blocks), 6, 13)
    assert sum(p.numel() for p in net.parameters()) == case["count"].item()
    theirs = {our_name(name): size for name, size in sizes_of(case["shapes"]).items()}
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == theirs


def test_levels(case):
    coords, offsets = tensor(case["coords.0"]), tensor(case["offsets.0"])
    ours = build_knn_pyramid(coords, offsets, neighbors=NEIGHBORS, pooling="farthest", stride=STRIDE, voxel_size=1.0)
    for level, expected in zip(ours, levels_of(case), strict=True):
        for name in ("coords", "offsets", "neighbors", "complete", "pool", "interpolate"):
            got, wanted = getattr(level, name), getattr(expected, name)
            assert torch.equal(got, wanted) if isinstance(wanted, torch.Tensor) else got == wanted, name


def test_evaluation(case, net):
    output = net.eval()(batch_of(case), levels_of(case))
    torch.testing.assert_close(output.logits, tensor(case["logits_eval"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("complete", [True, False])
def test_training_values_gradients_and_statistics(case, net, complete):
    levels = levels_of(case)
    if not complete:
        names = [slot for slot in Level.__slots__ if slot != "complete"]
        levels = [Level(**{name: getattr(level, name) for name in names}) for level in levels]
    output = net.train()(batch_of(case), levels)
    torch.testing.assert_close(output.logits, tensor(case["logits_train"]), rtol=1e-3, atol=1e-4)
    output.logits.backward(tensor(case["upstream"]))
    for name, expected in unpacked(case, "grad").items():
        atol = 1e-4 + 5e-4 * expected.abs().max().item()
        grad = net.get_parameter(name).grad
        torch.testing.assert_close(grad, expected, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    for name, expected in unpacked(case, "after").items():
        torch.testing.assert_close(
            net.get_buffer(name), expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
