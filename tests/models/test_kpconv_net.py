"""The KPConv network: shapes, gradients, invariances, state, learning."""

import math

import pytest
import torch

from pcseg.batch import PointBatch, cat, offsets_of, split
from pcseg.config import KPConvConfig
from pcseg.losses import cross_entropy
from pcseg.models import KPConvNet, build_model
from pcseg.models.layers import DeformableKPConv, KPConv, RowBatchNorm, deformation_penalty
from pcseg.pyramid import subsample

VOXEL = 0.25
KINDS = {
    "rigid": {},
    "group": {"norm": "group"},
    "deformable": {"deformable_levels": (1, 2)},
    "modulated": {"deformable_levels": (0, 1, 2), "modulated": True},
}


def make_net(dim=3, in_channels=2, num_classes=4, **changes):
    torch.manual_seed(0)
    settings = {"dim": dim, "voxel_size": VOXEL, "num_levels": 3, "width": 16} | changes
    return KPConvNet(KPConvConfig(**settings), in_channels, num_classes)


def cloud(n, dim=3, channels=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    coords = torch.rand(n, dim, generator=g) * 2 - 1
    return subsample(
        PointBatch(coords=coords, feats=torch.randn(n, channels, generator=g), offsets=torch.tensor([0, n])), VOXEL
    )[0]


def clouds(dim=3, channels=2):
    return cat([cloud(n, dim, channels, seed=n) for n in (120, 0, 1, 60)])


def run(net, batch):
    return net(batch, net.levels(batch))


def stir(net):
    """Weights and statistics under which nothing is hidden by a zero or a one."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "offset_" in name and "points" not in name:
                value.normal_(0, 0.05)
            if "running_mean" in name:
                value.normal_(0, 0.1)
    return net.eval()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_a_gradient_for_every_parameter(kind, dim):
    net, batch = make_net(dim, **KINDS[kind]), clouds(dim)
    output, penalties = net.forward_with_penalties(batch, net.levels(batch))
    assert output.logits.shape == (batch.num_rows, 4) and output.feats.shape == (batch.num_rows, 16)
    assert set(penalties) == ({"deform_fitting", "deform_repulsion"} if "deformable_levels" in KINDS[kind] else set())
    cross_entropy(output.logits, torch.arange(batch.num_rows) % 4).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_looped(kind):
    net, batch = stir(make_net(**KINDS[kind])), clouds()
    together = run(net, batch)
    looped = [run(net, part) for part in split(batch)]
    for field in ("logits", "feats"):
        expected = torch.cat([getattr(o, field) for o in looped])
        torch.testing.assert_close(getattr(together, field), expected, rtol=1e-4, atol=1e-5)


def test_group_norm_does_not_see_the_rest_of_the_batch_in_training():
    net, batch = make_net(norm="group").train(), clouds()
    expected = torch.cat([run(net, part).logits for part in split(batch)])
    torch.testing.assert_close(run(net, batch).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_does_not_matter(kind):
    net, batch = stir(make_net(**KINDS[kind])), cloud(150)
    order = torch.randperm(batch.num_rows, generator=torch.Generator().manual_seed(3))
    shuffled = PointBatch(coords=batch.coords[order], feats=batch.feats[order], offsets=batch.offsets)
    torch.testing.assert_close(run(net, shuffled).logits, run(net, batch).logits[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_by_whole_voxels_changes_nothing(kind):
    net, batch = stir(make_net(**KINDS[kind])), cloud(150)
    shift = 4 * VOXEL * torch.tensor([3.0, -2.0, 5.0])  # voxels of the coarsest level
    moved = PointBatch(coords=batch.coords + shift, feats=batch.feats, offsets=batch.offsets)
    torch.testing.assert_close(run(net, moved).logits, run(net, batch).logits, rtol=1e-3, atol=1e-4)


def test_directions_matter_unless_the_kernel_turns_too():
    torch.manual_seed(0)
    conv = KPConv(2, 3, num_points=15, dim=3, sigma=0.5)
    coords, feats = torch.randn(20, 3) * 0.5, torch.randn(20, 2)
    neighbors = torch.arange(20).expand(20, 20).contiguous()
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    before = conv(coords, coords, neighbors, feats)
    turned = coords @ turn.T
    assert (conv(turned, turned, neighbors, feats) - before).abs().max() > 0.1
    conv.points.copy_(conv.points @ turn.T)
    torch.testing.assert_close(conv(turned, turned, neighbors, feats), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [1, 1]])
def test_empty_batches_and_single_points(kind, lengths, training):
    net = make_net(**KINDS[kind]).train(training)
    n = sum(lengths)
    batch = PointBatch(coords=torch.zeros(n, 3), feats=torch.ones(n, 2), offsets=offsets_of(lengths))
    output, penalties = net.forward_with_penalties(batch, net.levels(batch))
    assert output.logits.shape == (n, 4) and output.logits.isfinite().all()
    (output.logits.sum() + sum(penalties.values())).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_batch_norm_of_one_row_uses_and_keeps_the_running_statistics():
    norm = RowBatchNorm(3).train()
    norm(torch.randn(10, 3))
    mean = norm.running_mean.clone()
    row = torch.randn(1, 3)
    torch.testing.assert_close(norm(row), (row - mean) / (norm.running_var + norm.eps).sqrt())
    assert torch.equal(norm.running_mean, mean)


def test_no_features_are_enough():
    net = make_net(in_channels=0)
    assert run(net, clouds(channels=0)).logits.std() > 0


def test_state_round_trip_and_kernels_travel_with_it():
    net, other, batch = stir(make_net()), make_net(kernel_layout="vertical").eval(), cloud(80)
    assert not torch.equal(run(net, batch).logits, run(other, batch).logits)
    other.load_state_dict(net.state_dict())
    assert torch.equal(run(net, batch).logits, run(other, batch).logits)
    assert torch.equal(other.stem.points, net.stem.points)


def test_builds_on_meta_and_takes_a_state_there():
    source = stir(make_net(deformable_levels=(2,)))
    with torch.device("meta"):
        net = build_model(source.config, 2, 4)
    assert all(value.is_meta for value in net.state_dict().values())
    net.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(run(net.eval(), cloud(50)).logits, run(source, cloud(50)).logits)


def test_kernel_radius_follows_the_voxels():
    net = make_net()
    for block, level in ((net.encoder[0][0], 0), (net.encoder[1][0], 0), (net.encoder[1][1], 1)):
        sigma = VOXEL * 2**level
        assert block.conv.sigma == sigma
        assert block.conv.points[1:].norm(dim=1).mean().item() == pytest.approx(1.5 * sigma, rel=1e-4)


def test_deformable_starts_as_the_rigid_kernel():
    torch.manual_seed(0)
    coords, feats = torch.randn(20, 3) * 0.5, torch.randn(20, 2)
    neighbors = torch.arange(20).expand(20, 20).contiguous()
    settings = {"num_points": 15, "dim": 3, "sigma": 0.5}
    layer = DeformableKPConv(2, 3, **settings)
    out, _ = layer(coords, coords, neighbors, feats)
    torch.testing.assert_close(out, layer.conv(coords, coords, neighbors, feats))


def test_penalty_by_hand():
    query, support = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    points, offsets = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[[0.0, 0.5], [0.0, 0.5]]])
    # Kernel points at (0, .5) and (1, .5); nearest is (1, 0): squared distances 1.25 and .25, over sigma squared 4.
    penalty = deformation_penalty(query, support, torch.tensor([[0, 1, 2]]), points, 2.0, offsets)
    assert penalty.fitting.item() == pytest.approx((1.25 + 0.25) / 2 / 4)
    assert penalty.repulsion.item() == pytest.approx((1 - 1 / 2) ** 2)


def test_penalty_pulls_points_to_the_cloud_and_apart():
    query, support = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0]])
    offsets = torch.zeros(1, 2, 2, requires_grad=True)
    penalty = deformation_penalty(query, support, torch.tensor([[0]]), points, 1.0, offsets)
    (pull,) = torch.autograd.grad(penalty.fitting, offsets, retain_graph=True)
    (push,) = torch.autograd.grad(penalty.repulsion, offsets)
    assert (pull[0, :, 0] < 0).all()  # descent moves both towards x = 1
    assert push[0, 0, 0] > 0 > push[0, 1, 0]  # descent moves them away from each other
    same = deformation_penalty(query, support, torch.tensor([[0]]), points * 0, 1.0, offsets)
    (slope,) = torch.autograd.grad(same.repulsion, offsets)
    assert slope.isfinite().all()


def test_penalties_reach_the_offsets():
    net, batch = make_net(deformable_levels=(1,)), cloud(100)
    _, penalties = net.forward_with_penalties(batch, net.levels(batch))
    sum(penalties.values()).backward()
    moved = [n for n, p in net.named_parameters() if "offset_" in n]
    assert moved and all(net.get_parameter(n).grad.abs().sum() > 0 for n in moved)


@pytest.mark.parametrize("deformable_levels", [(), (2,)])
def test_learns_a_small_scene(deformable_levels):
    """A plane with boxes on it, without features: the geometry alone tells them apart."""
    g = torch.Generator().manual_seed(0)
    coords = torch.rand(1500, 3, generator=g) * torch.tensor([8.0, 8.0, 0.02])
    box = ((coords[:, :2].div(2).floor().sum(1) % 2) == 0) & (torch.rand(1500, generator=g) < 0.7)
    coords[:, 2] += box * torch.rand(1500, generator=g)
    batch, _ = subsample(
        PointBatch(coords=coords, feats=torch.zeros(1500, 0), offsets=torch.tensor([0, 1500]), labels=box.long()),
        VOXEL,
    )
    net = make_net(in_channels=0, num_classes=2, deformable_levels=deformable_levels)
    levels = net.levels(batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = cross_entropy(net(batch, levels).logits, batch.labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.4 and losses[-1] < 0.25 * losses[0] and math.isfinite(losses[-1])


@pytest.mark.parametrize("deformable_levels", [(), (1,)])
def test_compiles(deformable_levels):
    net, batch = stir(make_net(num_levels=2, deformable_levels=deformable_levels)), cloud(60)
    levels = net.levels(batch)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch, levels).logits, net(batch, levels).logits, rtol=1e-4, atol=1e-5)


def test_autocast():
    net, batch = make_net(deformable_levels=(2,)), clouds()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, penalties = net.forward_with_penalties(batch, net.levels(batch))
        loss = output.logits.float().square().mean() + sum(penalties.values())
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_errors():
    net, batch = make_net(), clouds()
    with pytest.raises(ValueError, match=r"coords must be \(N, 3\)"):
        net.levels(clouds(dim=2))
    with pytest.raises(ValueError, match=r"feats must be \(N, 2\)"):
        net(clouds(channels=1), net.levels(batch))
    with pytest.raises(ValueError, match="3 levels expected, got 2"):
        net(batch, net.levels(batch)[:2])
    with pytest.raises(TypeError, match="no model for a config of type str"):
        build_model("kpconv", 2, 4)  # pyright: ignore[reportArgumentType]
