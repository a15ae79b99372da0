"""Image networks: any sizes in a batch, gradients, frozen encoders, learning."""

import pytest
import torch

from pcseg.batch import split
from pcseg.checkpoint import compare
from pcseg.config import ViTConfig
from pcseg.losses import cross_entropy
from pcseg.models import build_model
from tests.models.images import SIZES, TINY, images

KINDS = pytest.mark.parametrize("kind", TINY)


def make(kind, channels=3, **changes):
    torch.manual_seed(0)
    return build_model(TINY[kind].model_copy(update=changes), channels, 4)


def run(net, batch):
    return net(batch, net.levels(batch))


def stir(net):
    """Statistics and weights under which a mistake shows: as they start, deep maps are almost zero."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5)
            elif "running_mean" in name:
                value.normal_(0, 0.1)
    return net.eval()


@KINDS
def test_shapes_and_a_gradient_for_every_parameter(kind):
    net, batch = make(kind), images(SIZES)
    output, penalties = net.forward_with_penalties(batch, net.levels(batch))
    assert net.levels(batch) == () and penalties == {}
    assert output.logits.shape == (batch.num_rows, 4)
    assert output.feats.shape == (batch.num_rows, net.classifier.in_channels)
    cross_entropy(output.logits, torch.arange(batch.num_rows) % 4).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@KINDS
def test_batched_equals_one_after_the_other(kind):
    net, batch = stir(make(kind)), images([*SIZES, (1, 1), (0, 3), (5, 70)])
    with torch.no_grad():
        together, looped = run(net, batch), [run(net, image) for image in split(batch)]
    assert together.logits.std() > 0.01
    for field in ("logits", "feats"):
        expected = torch.cat([getattr(output, field) for output in looped])
        torch.testing.assert_close(getattr(together, field), expected, rtol=1e-3, atol=1e-4)


@KINDS
def test_the_classifier_reads_the_features(kind):
    net = stir(make(kind))
    with torch.no_grad():
        output = run(net, images([(21, 34)]))
        expected = output.feats @ net.classifier.weight[:, :, 0, 0].T + net.classifier.bias
    torch.testing.assert_close(output.logits, expected, rtol=1e-3, atol=1e-4)


@KINDS
@pytest.mark.parametrize("sizes", [[], [(0, 4)]], ids=str)
def test_no_pixels_no_rows(kind, sizes):
    net = make(kind)
    output = run(net, images(sizes))
    assert output.logits.shape == (0, 4) and output.feats.shape == (0, net.classifier.in_channels)
    output.logits.sum().backward()


@KINDS
@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels(kind, channels):
    net, batch = make(kind, channels), images([(32, 40)] * 2, channels)
    assert run(net, batch).logits.isfinite().all()
    with pytest.raises(ValueError, match=rf"feats must be \(N, {channels}\), got \(2560, 3\)"):
        run(net, images([(32, 40)] * 2))


@KINDS
def test_training_lowers_the_loss(kind):
    net, batch = make(kind, dropout=0.0), images([(32, 40)] * 2)
    labels = (batch.coords[:, 0] > 20).long()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = cross_entropy(run(net, batch).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


@KINDS
def test_a_frozen_encoder_stays_as_it_is(kind):
    net, batch = make(kind, freeze=True).train(), images([(40, 48)] * 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    cross_entropy(run(net, batch).logits, torch.arange(batch.num_rows) % 4).backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert "classifier.weight" in changed and not [name for name in changed if name.startswith("encoder.")]
    assert all(p.requires_grad != n.startswith("encoder.") for n, p in net.named_parameters())
    assert not net.encoder.net.training and net.classifier.training


@KINDS
def test_state_round_trip(kind):
    source, other = stir(make(kind)), build_model(TINY[kind], 3, 4).eval()
    other.load_state_dict(source.state_dict())
    batch = images([(32, 40)])
    assert torch.equal(run(other, batch).logits, run(source, batch).logits)


@KINDS
def test_builds_on_meta_and_without_weights_there(kind):
    with torch.device("meta"):
        net = build_model(TINY[kind].model_copy(update={"weights": "nobody/nothing"}), 3, 4)
    shapes = {name: value.shape for name, value in make(kind).state_dict().items()}
    assert {name: value.shape for name, value in net.state_dict().items()} == shapes


def test_a_lone_image_is_enough_in_training():
    for kind in TINY:
        run(make(kind).train(), images([(40, 33)])).logits.sum().backward()


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_patches_at_the_edge_see_the_last_pixels_repeated(kind):
    net = stir(make(kind))
    batch = images([(13, 30)])
    plane = batch.feats.view(13, 30, 3)
    patch = net.patch
    rows, columns = (torch.arange(-(-n // patch) * patch).clamp(max=n - 1) for n in (13, 30))
    padded = images([(len(rows), len(columns))])
    padded.feats.copy_(plane[rows][:, columns].reshape(-1, 3))
    expected = run(net, padded).logits.view(len(rows), len(columns), 4)[:13, :30]
    torch.testing.assert_close(run(net, batch).logits, expected.reshape(-1, 4))


def test_configs_come_back_from_plain_values():
    for config in TINY.values():
        again = type(config).model_validate(config.model_dump(mode="json"))
        assert again == config and compare(again.model_dump(mode="json"), config.model_dump(mode="json")) == []
    with pytest.raises(ValueError, match="heads must divide hidden 24"):
        ViTConfig(hidden=24, heads=5)
