"""Mask2Former on our encoders: the same as the model of transformers, and what of it is ours: sizes, void, weights."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from transformers import (
    Mask2FormerConfig as Settings,
)
from transformers import Mask2FormerForUniversalSegmentation, ViTModel
from transformers import SwinConfig as SwinSettings
from transformers import ViTConfig as ViTSettings

from pcseg.batch import IGNORE, PointBatch, split
from pcseg.config import (
    CropConfig,
    DataConfig,
    KPConvConfig,
    Mask2FormerConfig,
    ModelConfig,
    SwinConfig,
    TrainConfig,
)
from pcseg.errors import InputError
from pcseg.losses.mask2former import mask2former_loss
from pcseg.methods.panoptic import panoptic_loss
from pcseg.models import build_model, build_network
from pcseg.models.heads import MaskMaps
from pcseg.models.mask2former import Mask2Former
from pcseg.pseudo.targets import targets_of
from tests.models.images import TINY, images

NAMES = ("tree", "car", "road", "sky")
THINGS = (True, True, False, False)
SMALL = Mask2FormerConfig(
    queries=7, channels=32, heads=4, pixel_layers=2, pixel_hidden=24, layers=4, hidden=40, points=60
)
SWIN = SwinConfig(embed=8, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), window=4, decoder_channels=16)


def theirs(**changes) -> Mask2FormerForUniversalSegmentation:
    """The model of transformers that SMALL on SWIN is to be."""
    torch.manual_seed(3)
    backbone = SwinSettings(
        embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4,
        out_features=[f"stage{number}" for number in range(1, 5)],
    )  # fmt: skip
    values = {
        "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24,
        "encoder_layers": 2, "decoder_layers": 5, "num_attention_heads": 4, "dim_feedforward": 40, "num_queries": 7,
        "train_num_points": 60, "id2label": dict(enumerate(NAMES)), "output_auxiliary_logits": True,
    }  # fmt: skip
    return Mask2FormerForUniversalSegmentation(Settings(backbone_config=backbone, **values | changes)).eval()


@pytest.fixture(scope="module")
def their_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mask2former")
    theirs().save_pretrained(folder)
    return folder


def pair(folder, model: ModelConfig = SWIN) -> tuple[torch.nn.Module, Mask2Former]:
    """Our network and branch, the latter with the weights of a folder."""
    torch.manual_seed(0)
    net = build_model(model, 3, len(NAMES))
    config = SMALL if folder is None else SMALL.model_copy(update={"weights": str(folder)})
    return net, Mask2Former(config, net.scales, NAMES, pretrained=True)  # pyright: ignore


@pytest.fixture(scope="module")
def same(their_folder):
    """Their model, and our network and branch with all its weights."""
    other = theirs()
    net, branch = pair(their_folder)
    report = net.encoder.net.load_state_dict(other.model.pixel_level_module.encoder.state_dict(), strict=False)
    assert report.missing_keys == []
    return other, net.eval(), branch.eval()


def labelled(batch: PointBatch, seed: int = 0, void: float = 0.0) -> PointBatch:
    """Blocks of 8 x 8 pixels with a class each and an instance number; some blocks are void."""
    generator = torch.Generator().manual_seed(seed)
    places = (batch.coords // 8).long()
    labels = torch.randint(0, len(NAMES), (20, 20), generator=generator)
    labels[torch.rand(20, 20, generator=generator) < void] = IGNORE
    instances = torch.arange(400).view(20, 20) % 11 * len(NAMES) + labels.clamp(min=0)
    at = places[:, 1], places[:, 0]
    return replace(batch, labels=labels[at], instances=instances[at])


@torch.no_grad()
def test_proposals_are_those_of_transformers(same):
    other, net, branch = same
    batch = images([(64, 96), (64, 96)])
    expected = other(batch.feats.view(2, 64, 96, 3).permute(0, 3, 1, 2))
    found = branch(batch, net(batch))
    assert len(found.layers) == 5 and found.seeds is None
    layers = [*expected.auxiliary_logits, expected]
    for ours, maps, wanted in zip(found.layers, found.maps[0].mask_logits, layers, strict=True):
        torch.testing.assert_close(ours.class_logits, wanted["class_queries_logits"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps, wanted["masks_queries_logits"], rtol=1e-4, atol=1e-5)
    whole = F.interpolate(expected.masks_queries_logits, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.last.mask_logits, whole.permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-4, atol=1e-4)
    assert found.last.mask_logits.std() > 0.01


def test_the_loss_is_that_of_transformers(same):
    other, net, branch = same
    batch = labelled(images([(64, 96), (64, 96)]))
    targets = targets_of(batch, THINGS)
    masks = [wanted.masks.T.reshape(-1, 64, 96) for wanted in targets]
    assert min(len(m) for m in masks) > 7, "more targets than queries"
    torch.manual_seed(5)
    expected = other(
        batch.feats.view(2, 64, 96, 3).permute(0, 3, 1, 2),
        mask_labels=masks,
        class_labels=[wanted.classes for wanted in targets],
    ).loss
    torch.manual_seed(5)
    found = panoptic_loss(branch(batch, net(batch)), batch.offsets, targets, branch.config)
    torch.testing.assert_close(found, expected.reshape(()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet/16", "resnet/8", "resnet/32", "mobilenet/16", "mobilenet/32", "swin"])
def test_every_weight_learns_on_images_of_several_sizes(kind):
    name, _, stride = kind.partition("/")
    model = TINY[kind] if kind in TINY else TINY[f"{name}/16"].model_copy(update={"output_stride": int(stride)})
    net, branch = pair(None, model)
    batch = labelled(images([(40, 33), (33, 47), (0, 3), (40, 33)]), void=0.3)
    found = branch(batch, net(batch))
    for layer in found.layers:
        assert layer.class_logits.shape == (4, 7, 5) and layer.mask_logits.shape == (batch.num_rows, 7)
    panoptic_loss(found, batch.offsets, targets_of(batch, THINGS), SMALL).backward()
    for module in (branch, net.get_submodule("encoder")):
        still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # The deepest blocks of a random MobileNetV2 give almost nothing.
        assert still == [] or (name == "mobilenet" and module is not branch), still


def test_half_precision_says_much_the_same(same):
    _, net, branch = same
    batch = labelled(images([(64, 96), (40, 33)]))
    targets = targets_of(batch, THINGS)
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = branch(batch, net(batch))
            found.append(panoptic_loss(output, batch.offsets, targets, SMALL))
        found[-1].backward()
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0)
    assert output.last.mask_logits.isfinite().all() and found[1].dtype == torch.float32
    branch.zero_grad()


@torch.no_grad()
def test_batched_equals_one_after_the_other(same):
    _, net, branch = same
    batch = images([(40, 33), (64, 96), (40, 33), (5, 70)])
    together = branch(batch, net(batch))
    looped = [branch(image, net(image)) for image in split(batch)]
    assert len(together.maps) == 3
    for field in ("class_logits", "mask_logits"):
        expected = torch.cat([getattr(output.last, field) for output in looped])
        torch.testing.assert_close(getattr(together.last, field), expected, rtol=1e-3, atol=1e-4)


def test_no_pixels_no_masks(same):
    _, net, branch = same
    batch = images([(0, 4)])
    batch = replace(batch, labels=torch.zeros(0, dtype=torch.int64), instances=torch.zeros(0, dtype=torch.int64))
    found = branch(batch, net(batch))
    assert found.last.class_logits.shape == (1, 7, 5) and found.last.mask_logits.shape == (0, 7)
    assert panoptic_loss(found, batch.offsets, targets_of(batch, THINGS), SMALL) == 0


def maps_of(height: int, width: int, seed: int = 0) -> MaskMaps:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(1, 7, -(-height // 4), -(-width // 4), generator=generator).requires_grad_()
    classes = torch.randn(1, 7, 5, generator=generator).requires_grad_()
    return MaskMaps((0,), (height, width), 4, (classes,), (masks,))


def loss_of(maps: MaskMaps, classes, masks, void, config=SMALL) -> torch.Tensor:
    torch.manual_seed(1)
    return mask2former_loss([maps], [[classes]], [[masks]], [void], config)


def test_nothing_is_learnt_from_void():
    """A map of 9 x 9 cells on 34 x 35 pixels; the lower half is void, and so is what the map has beyond the image."""
    maps = maps_of(34, 35)
    masks = torch.zeros(2, 34, 35)
    masks[0, :17, :20], masks[1, :17, 20:] = 1, 1
    void = torch.zeros(1, 34, 35, dtype=torch.bool)
    void[:, 17:] = True
    loss = loss_of(maps, torch.tensor([1, 2]), masks, void)
    loss.backward()
    slope = maps.mask_logits[0].grad
    assert slope is not None and slope[0, :, :4].abs().sum() > 0
    assert (slope[0, :, 5:] == 0).all() and (slope[0, :, 4] == 0).all(), "row 4 has one pixel of four in the upper half"
    garbled = maps.mask_logits[0].detach().clone()
    garbled[:, :, 4:] = 37.0
    assert loss_of(maps._replace(mask_logits=(garbled,)), torch.tensor([1, 2]), masks, void) == loss
    seen = torch.zeros_like(void)
    assert loss_of(maps, torch.tensor([1, 2]), masks, seen) != loss


def test_perfect_proposals_cost_next_to_nothing():
    maps = maps_of(32, 32)
    masks = torch.zeros(2, 32, 32)
    masks[0, :16], masks[1, 16:] = 1, 1
    void = torch.zeros(1, 32, 32, dtype=torch.bool)
    named = torch.full((1, 7, 5), -20.0)
    named[0, :, 4], named[0, 3], named[0, 5] = (
        20.0,
        torch.tensor([-20, 20, -20, -20, -20.0]),
        torch.tensor([20, -20, -20, -20, -20.0]),
    )
    drawn = torch.full((1, 7, 8, 8), -30.0)
    drawn[0, 3, 4:], drawn[0, 5, :4] = 30.0, 30.0  # the order of the targets does not matter
    good = maps._replace(class_logits=(named,), mask_logits=(drawn,))
    assert loss_of(good, torch.tensor([0, 1]), masks, void) < 3.0, "but for the points on the border"
    assert loss_of(good, torch.tensor([1, 0]), masks, void) > 20.0


def test_an_image_without_targets_learns_nothing_but_classes():
    maps, void = maps_of(32, 32), torch.ones(1, 32, 32, dtype=torch.bool)
    loss = loss_of(maps, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32, 32), void)
    nothing = F.cross_entropy(maps.class_logits[0][0], torch.full((7,), 4))
    torch.testing.assert_close(loss, SMALL.class_weight * nothing)
    loss.backward()
    slope = maps.mask_logits[0].grad
    assert slope is None or not slope.any()


def test_groups_of_images_count_by_their_masks_and_images():
    """Two sizes, one of them twice: classes are means over images, masks over masks."""
    config = SMALL.model_copy(update={"mask_weight": 0.0, "dice_weight": 0.0})
    small, large = maps_of(16, 16, 1), maps_of(32, 32, 2)
    empty = torch.zeros(0, dtype=torch.int64)
    none = [torch.zeros(0, size, size) for size in (16, 32)]
    void = [torch.zeros(1, size, size, dtype=torch.bool) for size in (16, 32)]
    both = mask2former_loss([small, large], [[empty], [empty]], [[none[0]], [none[1]]], void, config)
    alone = [loss_of(maps, empty, none[i], void[i], config) for i, maps in enumerate((small, large))]
    torch.testing.assert_close(both, sum(alone) / 2)


# Weights


def test_the_classifier_is_taken_over_where_the_classes_are_the_same(their_folder):
    _, branch = pair(their_folder)
    expected = theirs().class_predictor.weight
    assert torch.equal(branch.net.class_predictor.weight, expected)
    config = SMALL.model_copy(update={"weights": str(their_folder)})
    torch.manual_seed(0)
    other = Mask2Former(config, build_model(SWIN, 3, 4).scales, ("a", "b", "c", "d"), pretrained=True)  # pyright: ignore
    assert not torch.equal(other.net.class_predictor.weight, expected)
    assert torch.equal(other.net.transformer.queries_features.weight, branch.net.transformer.queries_features.weight)


def refusal(folder, **changes) -> str:
    config = SMALL.model_copy(update={"weights": str(folder), **changes})
    with pytest.raises(InputError) as caught:
        Mask2Former(config, build_model(SWIN, 3, 4).scales, NAMES, pretrained=True)  # pyright: ignore
    return str(caught.value)


def test_weights_that_do_not_fit(their_folder, tmp_path):
    text = refusal(their_folder, queries=9)
    assert "2 tensors do not fit, such as transformer.queries_embedder.weight is (7, 32) there and (9, 32) here" in text
    assert "set queries, channels, heads and layers of panoptic as there" in refusal(their_folder, layers=3)
    net, config = build_model(TINY["resnet/16"], 3, 4), SMALL.model_copy(update={"weights": str(their_folder)})
    with pytest.raises(InputError, match="an encoder of the same channels"):
        Mask2Former(config, net.scales, NAMES, pretrained=True)  # pyright: ignore
    ViTModel(ViTSettings(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path / "vit")
    assert "is of model_type vit, and mask2former is wanted" in refusal(tmp_path / "vit")
    assert refusal(tmp_path / "none").startswith(f"panoptic.weights {tmp_path}/none: no such folder")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text((their_folder / "config.json").read_text())
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"none")
    assert "cannot be read as a Mask2Former of transformers" in refusal(tmp_path / "broken")


# What does not fit


def run_of(model: ModelConfig, **panoptic) -> TrainConfig:
    data = DataConfig(
        kind="panoptic", root="data", train_scenes=("*",), class_names=NAMES, label_map={0: 0, 1: 1, 2: 2, 3: 3},
        things=("tree", "car"), features=("color",), crop=CropConfig(window=32),
    )  # fmt: skip
    return TrainConfig(name="x", data=data, model=model, panoptic=Mask2FormerConfig(**panoptic), steps=1)


@pytest.mark.parametrize("model", [TINY["vit"], KPConvConfig(dim=2, voxel_size=1.0)], ids=["vit", "kpconv"])
def test_networks_without_scales_are_refused(model):
    with pytest.raises(
        InputError, match=r"reads maps of 3 scales or more, and the network gives [01]; take model.kind"
    ):
        build_network(run_of(model), 3)


def test_settings_that_do_not_fit():
    with pytest.raises(ValidationError, match="heads must divide channels 32, got 3"):
        Mask2FormerConfig(channels=32, heads=3)
    with pytest.raises(ValidationError, match="multiple of 32"):
        Mask2FormerConfig(channels=48)
    with pytest.raises(ValidationError, match="must be above 0"):
        Mask2FormerConfig(class_weight=0, mask_weight=0, dice_weight=0)


def test_the_defaults_are_those_of_transformers():
    ours, defaults = Mask2FormerConfig(), Settings()
    settings = build_network(run_of(TINY["resnet/16"]), 3).panoptic.net
    for name in ("feature_size", "hidden_dim", "encoder_layers", "decoder_layers", "num_attention_heads",
                 "dim_feedforward", "encoder_feedforward_dim", "num_queries", "no_object_weight", "class_weight",
                 "mask_weight", "dice_weight", "train_num_points", "oversample_ratio",
                 "importance_sample_ratio"):  # fmt: skip
        assert getattr(settings.config, name) == getattr(defaults, name), name
    assert ours.layers == defaults.decoder_layers - 1
