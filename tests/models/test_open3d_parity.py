"""Values, gradients and parameter counts of Open3D-ML's KPConv (tests/golden/make_open3d_kpconv.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pcseg.batch import PointBatch
from pcseg.config import KPConvConfig
from pcseg.models import KPConvNet
from pcseg.models.layers import DeformableKPConv, KPConv
from pcseg.pyramid import Level

GOLDEN = Path(__file__).parents[1] / "golden" / "open3d_kpconv.npz"


@pytest.fixture(scope="module")
def golden():
    def case(name):
        with np.load(GOLDEN) as file:
            found = {
                k.removeprefix(f"{name}/"): torch.from_numpy(file[k]) for k in file.files if k.startswith(f"{name}/")
            }
        return {k: v.long() if v.dtype == torch.int16 else v for k, v in found.items()}

    return case


@pytest.mark.parametrize("kind", ["rigid", "deformable", "modulated"])
def test_layer(golden, kind):
    case = golden(kind)
    settings = {"num_points": 15, "dim": 3, "sigma": 0.5}
    if kind == "rigid":
        layer = conv = KPConv(3, 4, **settings)
        theirs = {"weight": "weights"}
    else:
        layer = DeformableKPConv(3, 4, **settings, modulated=kind == "modulated")
        conv = layer.conv
        layer.offset_conv.points.copy_(case["state.kernel_points"])
        theirs = {"conv.weight": "weights", "offset_conv.weight": "offset_conv.weights", "offset_bias": "offset_bias"}
    conv.points.copy_(case["state.kernel_points"])
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(case[f"state.{theirs[name]}"])
    feats = case["feats"].requires_grad_()
    out = layer(case["query"], case["support"], case["neighbors"], feats)
    if kind != "rigid":
        out = out[0]
    torch.testing.assert_close(out, case["out"], rtol=1e-4, atol=1e-5)
    out.backward(case["upstream"])
    torch.testing.assert_close(feats.grad, case["grad_feats"], rtol=1e-4, atol=1e-5)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, case[f"grad.{theirs[name]}"], rtol=1e-4, atol=1e-5)


def our_name(theirs):
    """Where Open3D-ML's network keeps what, in ours; the golden network has blocks stem, 0, then 2 for each level."""
    place, _, rest = theirs.partition(".")
    if place == "head_mlp":
        return "head." + {"mlp.weight": "weight", "batch_norm.bias": "bias"}[rest]
    if place == "head_softmax":
        return "classifier." + {"mlp.weight": "weight", "batch_norm.bias": "bias"}[rest]
    number, _, rest = rest.partition(".")
    rest = rest.replace("batch_norm.batch_norm.", "norm.").replace("mlp.", "linear.")
    if place == "decoder_blocks":
        return f"decoder.{ {'1': 1, '3': 0}[number] }.{rest}"
    rest = rest.replace("batch_norm_conv.batch_norm.", "conv_norm.")
    rest = rest.replace("unary1.", "reduce.").replace("unary2.", "expand.").replace("unary_shortcut.", "shortcut.")
    if "KPConv" in rest:
        deformable = int(number) >= 3
        rest = rest.replace("KPConv.offset_", "conv.offset_")
        rest = rest.replace("KPConv.", "conv.conv." if deformable else "conv.")
        rest = rest.replace("weights", "weight").replace("kernel_points", "points")
    if number == "0":
        return rest.replace("conv.", "stem.", 1) if rest.startswith("conv.") else "stem_" + rest
    level, block = (0, 0) if number == "1" else divmod(int(number), 2)
    return f"encoder.{level}.{block}.{rest}"


def test_network_and_its_penalties(golden):
    case = golden("network")
    config = KPConvConfig(voxel_size=0.4, num_levels=3, width=8, deformable_levels=(1, 2))
    net = KPConvNet(config, in_channels=2, num_classes=4).eval()
    state = {our_name(k.removeprefix("state.")): v for k, v in case.items() if k.startswith("state.")}
    net.load_state_dict(state, strict=True)
    levels = []
    for index in range(3):
        coords = case[f"coords.{index}"]
        pool, upsample = case.get(f"pool.{index}"), case.get(f"upsample.{index}")
        levels.append(
            Level(
                coords=coords,
                offsets=torch.tensor([0, len(coords)]),
                neighbors=case[f"neighbors.{index}"],
                pool=pool,
                upsample=None if upsample is None else upsample[:, 0],
            )
        )
    batch = PointBatch(coords=levels[0].coords, feats=case["feats"], offsets=levels[0].offsets)
    output, penalties = net.forward_with_penalties(batch, levels)
    torch.testing.assert_close(F.leaky_relu(output.logits, 0.1), case["logits"], rtol=1e-4, atol=1e-4)
    total = 2 * penalties["deform_fitting"] + penalties["deform_repulsion"]
    torch.testing.assert_close(total, case["penalty"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocks", [2, 3])
def test_parameter_count(golden, blocks):
    config = KPConvConfig(voxel_size=0.04, num_levels=5, width=64, blocks_per_level=blocks)
    with torch.device("meta"):
        net = KPConvNet(config, in_channels=4, num_classes=13)
    assert sum(p.numel() for p in net.parameters()) == golden("parameters")[f"blocks_{blocks}"].item()
