"""The Point Transformer network: against plain PyTorch, gradients, invariances, small clouds, state, learning."""

import math

import pytest
import torch
import torch.nn.functional as F

from pcseg.batch import PointBatch, cat, offsets_of, split
from pcseg.config import PointTransformerConfig
from pcseg.losses import cross_entropy
from pcseg.models import PointTransformerNet, build_model
from pcseg.models.attention import AttentionBlock, TransitionDown, interpolated, neighborhood
from pcseg.pyramid import subsample

VOXEL = 0.25
KINDS = {"farthest": {}, "grid": {"pooling": "grid"}, "not_shared": {"share": 1}}


def make_net(dim=3, in_channels=2, num_classes=4, **changes):
    torch.manual_seed(0)
    settings = {
        "dim": dim,
        "voxel_size": VOXEL,
        "widths": (8, 16, 16),
        "encoder_blocks": (1, 2, 1),
        "decoder_blocks": (1, 1, 1),
        "neighbors": (6, 8, 8),
        "share": 4,
    }
    return PointTransformerNet(PointTransformerConfig(**settings | changes), in_channels, num_classes)


def cloud(n, dim=3, channels=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    coords = torch.rand(n, dim, generator=g) * 2 - 1
    feats = torch.randn(n, channels, generator=g)
    return subsample(PointBatch(coords=coords, feats=feats, offsets=torch.tensor([0, n])), VOXEL)[0]


def clouds(dim=3, channels=2):
    """A large cloud, an empty one, a point, fewer points than neighbours, a middling one."""
    return cat([cloud(n, dim, channels, seed=n) for n in (150, 0, 1, 5, 60)])


def run(net, batch):
    return net(batch, net.levels(batch))


def stir(net):
    """Weights and statistics under which nothing is hidden by a zero or a one; some channels fall."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "running_mean" in name or ("norm" in name and name.endswith("bias")):
                value.copy_(torch.randn(value.shape, generator=g) * 0.2)
            if "running_var" in name or ("norm" in name and name.endswith("weight")):
                value.copy_(torch.rand(value.shape, generator=g) + 0.5)
            if "down" in name and name.endswith("norm.weight"):
                value[::2].neg_()
    return net.eval()


def double(batch):
    return PointBatch(coords=batch.coords.double(), feats=batch.feats.double(), offsets=batch.offsets)


def plain_norm(norm, pairs, training):  # (P, C), the pairs that exist
    return F.batch_norm(pairs, None if training else norm.running_mean, None if training else norm.running_var,
                        norm.weight, norm.bias, training=training)  # fmt: skip


def plain_attention(layer, feats, coords, neighbors, training):
    """Equation 3 pair by pair, on the list of pairs that exist."""
    row, place = torch.nonzero(neighbors < len(coords), as_tuple=True)
    other = neighbors[row, place]
    hidden = plain_norm(layer.position_norm, layer.position(coords[row] - coords[other]), training)
    delta = layer.position_out(F.relu(hidden))
    relation = layer.query(feats)[row] - layer.key(feats)[other] + delta
    relation = layer.relation(F.relu(plain_norm(layer.relation_norm, relation, training)))
    logits = layer.weight_out(F.relu(plain_norm(layer.weight_norm, relation, training)))
    out = []
    for index in range(len(coords)):
        mine = row == index
        weights = logits[mine].softmax(0)
        values = layer.value(feats)[other[mine]] + delta[mine]
        out.append((values * weights.tile(1, values.shape[1] // weights.shape[1])).sum(0))
    return torch.stack(out)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", ["complete", "with gaps"])
@pytest.mark.parametrize("dim", [2, 3])
def test_block_against_plain_pytorch(dim, case, training):
    torch.manual_seed(1)
    block = stir(AttentionBlock(8, dim=dim, share=2, momentum=0.1).double()).train(training)
    coords, feats = torch.randn(30, dim, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64)
    neighbors = torch.cdist(coords, coords).argsort(1)[:, :5].contiguous()
    if case == "with gaps":
        neighbors[torch.rand(30, 5) < 0.4] = 30
        neighbors[:, 0] = torch.arange(30)
    mine, theirs = feats.clone().requires_grad_(), feats.clone().requires_grad_()
    out = block(mine, neighborhood(coords, coords, neighbors, complete=case == "complete"))
    inner = F.relu(plain_norm(block.reduce.norm, block.reduce.linear(theirs), training))
    inner = plain_attention(block.attention, inner, coords, neighbors, training)
    inner = block.expand(F.relu(plain_norm(block.attention_norm, inner, training)))
    expected = F.relu(plain_norm(block.expand_norm, inner, training) + theirs)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(out)
    names, parameters = zip(*block.named_parameters(), strict=True)
    got = torch.autograd.grad(out, [mine, *parameters], upstream)
    wanted = torch.autograd.grad(expected, [theirs, *parameters], upstream)
    for name, a, b in zip(("feats", *names), got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dim", [2, 3])
def test_transition_down_against_plain_pytorch(dim, training):
    torch.manual_seed(1)
    layer = TransitionDown(3, 6, dim=dim, momentum=0.1).double().train(training)
    with torch.no_grad():
        layer.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, -0.5, 0.1, 3.0]))
        layer.norm.bias.normal_()
        layer.norm.running_mean.normal_()
    coords, feats = torch.randn(30, dim, dtype=torch.float64), torch.randn(30, 3, dtype=torch.float64)
    pool = torch.cdist(coords[:7], coords).argsort(1)[:, :4].contiguous()
    pool[torch.rand(7, 4) < 0.3] = 30
    pool[:, 0] = torch.arange(7)
    mine, theirs = feats.clone().requires_grad_(), feats.clone().requires_grad_()
    out = layer(mine, coords, coords[:7], pool)
    row, place = torch.nonzero(pool < 30, as_tuple=True)
    other = pool[row, place]
    pairs = layer.linear(torch.cat([coords[other] - coords[row], theirs[other]], 1))
    pairs = F.relu(plain_norm(layer.norm, pairs, training))
    expected = torch.stack([pairs[row == index].amax(0) for index in range(7)])
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad(out, [mine, *layer.parameters()], upstream),
        torch.autograd.grad(expected, [theirs, *layer.parameters()], upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_interpolation_weighs_the_neighbours_that_exist():
    values = torch.randn(4, 3, requires_grad=True)
    neighbors = torch.tensor([[0, 1, 2], [3, 4, 4], [2, 0, 4]])
    weights = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])
    out = interpolated(values, neighbors, weights)
    expected = torch.stack(
        [0.2 * values[0] + 0.3 * values[1] + 0.5 * values[2], values[3], 0.25 * values[2] + 0.75 * values[0]]
    )
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.sum(), values)
    torch.testing.assert_close(grad[:, 0], torch.tensor([0.95, 0.3, 0.75, 1.0]))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_a_gradient_for_every_parameter(kind, dim):
    net, batch = make_net(dim, **KINDS[kind]), clouds(dim)
    output, penalties = net.forward_with_penalties(batch, net.levels(batch))
    assert output.logits.shape == (batch.num_rows, 4) and output.feats.shape == (batch.num_rows, 8)
    assert penalties == {}
    cross_entropy(output.logits, torch.arange(batch.num_rows) % 4).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # What is added to every pair before a norm changes nothing; rounding may leave exactly 0 of it.
    before_norms = ("linear.bias", "dense.bias", "query.bias", "key.bias", "position.bias", "relation.bias")
    assert [n for n in without if not n.endswith(before_norms) and "weight_out.bias" not in n] == []


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_looped(kind):
    net, batch = stir(make_net(**KINDS[kind])), clouds()
    together = run(net, batch)
    looped = [run(net, part) for part in split(batch)]
    for field in ("logits", "feats"):
        expected = torch.cat([getattr(o, field) for o in looped])
        torch.testing.assert_close(getattr(together, field), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_does_not_matter(kind):
    net, batch = stir(make_net(**KINDS[kind])), cloud(150)
    order = torch.randperm(batch.num_rows - 1, generator=torch.Generator().manual_seed(3)) + 1
    order = torch.cat([torch.tensor([0]), order])  # farthest points start at the first
    shuffled = PointBatch(coords=batch.coords[order], feats=batch.feats[order], offsets=batch.offsets)
    torch.testing.assert_close(run(net, shuffled).logits, run(net, batch).logits[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_by_whole_voxels_changes_nothing(kind):
    net, batch = stir(make_net(**KINDS[kind])), cloud(150)
    moved = PointBatch(
        coords=batch.coords + 4 * VOXEL * torch.tensor([3.0, -2.0, 5.0]), feats=batch.feats, offsets=batch.offsets
    )
    torch.testing.assert_close(run(net, moved).logits, run(net, batch).logits, rtol=1e-3, atol=1e-4)


def test_a_plane_in_space_is_a_plane():
    """D = 2 equals D = 3 with z = 0, where the weights of z are anything."""
    flat, space = stir(make_net(2)), make_net(3)
    state = space.state_dict()
    for name, value in flat.state_dict().items():
        if value.shape == state[name].shape:
            state[name].copy_(value)
            continue
        if name.startswith("down"):  # coordinates first, then features
            state[name][:, :2].copy_(value[:, :2])
            state[name][:, 3:].copy_(value[:, 2:])
        elif name.endswith("position.weight"):
            state[name][:2, :2].copy_(value)
        elif name.endswith("position_out.weight"):
            state[name].zero_()[:, :2].copy_(value)
        else:
            state[name][:2].copy_(value)
    batch = cloud(150, 2)
    lifted = PointBatch(coords=F.pad(batch.coords, (0, 1)), feats=batch.feats, offsets=batch.offsets)
    torch.testing.assert_close(run(space.eval(), lifted).logits, run(flat.eval(), batch).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [1, 1], [3, 0, 1]])
def test_empty_batches_and_few_points(kind, lengths, training):
    net = make_net(**KINDS[kind]).train(training)
    n = sum(lengths)
    batch = PointBatch(coords=torch.rand(n, 3), feats=torch.ones(n, 2), offsets=offsets_of(lengths))
    output = run(net, batch)
    assert output.logits.shape == (n, 4) and output.logits.isfinite().all()
    output.logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert all(value.isfinite().all() for value in net.state_dict().values())


def test_points_in_one_place():
    net = make_net()
    batch = PointBatch(coords=torch.zeros(20, 3), feats=torch.randn(20, 2), offsets=torch.tensor([0, 20]))
    logits = run(net, batch).logits
    logits.sum().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters())


def test_one_point_keeps_the_running_statistics():
    net = make_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run(net, PointBatch(coords=torch.zeros(1, 3), feats=torch.ones(1, 2), offsets=torch.tensor([0, 1])))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_gaps_take_no_part_in_training():
    """A small cloud beside a large one: the statistics are those of the pairs that exist."""
    net, batch = make_net(widths=(8,), encoder_blocks=(1,), decoder_blocks=(1,), neighbors=(6,)).train(), cloud(4)
    (level,) = net.levels(batch)
    assert batch.num_rows < 6 and not level.complete
    run(net, batch)
    shorter = make_net(widths=(8,), encoder_blocks=(1,), decoder_blocks=(1,), neighbors=(batch.num_rows,)).train()
    run(shorter, batch)
    for name, value in shorter.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("training", [True, False])
def test_gradients_by_finite_differences(training):
    net = stir(make_net(widths=(4, 4), encoder_blocks=(1, 1), decoder_blocks=(1, 0), neighbors=(3, 3), share=2))
    net = net.double().train(training)
    batch = double(cloud(40))
    levels = net.levels(batch)
    names = ["stem.linear.weight", "down.0.linear.weight", "encoder.0.0.attention.position.weight",
             "encoder.1.0.attention.query.weight", "up.0.coarse.linear.weight", "bottom.mean.weight"]  # fmt: skip
    state = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(*values):
        changed = state | dict(zip(names, values, strict=True))
        changed = {name: value if name in names else value.clone() for name, value in changed.items()}
        return torch.func.functional_call(net, changed, (batch, levels)).logits

    inputs = tuple(net.get_parameter(name).detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)


def test_no_features_are_enough():
    assert run(make_net(in_channels=0), clouds(channels=0)).logits.std() > 0


def test_state_round_trip():
    net, other, batch = stir(make_net()), make_net(num_classes=4).eval(), cloud(80)
    assert not torch.equal(run(net, batch).logits, run(other, batch).logits)
    other.load_state_dict(net.state_dict())
    assert torch.equal(run(net, batch).logits, run(other, batch).logits)


def test_builds_on_meta_and_takes_a_state_there():
    source = stir(make_net())
    with torch.device("meta"):
        net = build_model(source.config, 2, 4)
    assert all(value.is_meta for value in net.state_dict().values())
    net.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(run(net.eval(), cloud(50)).logits, run(source, cloud(50)).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_learns_a_small_scene(kind):
    """A plane with boxes on it, without features: the geometry alone tells them apart."""
    g = torch.Generator().manual_seed(0)
    coords = torch.rand(1500, 3, generator=g) * torch.tensor([8.0, 8.0, 0.02])
    box = ((coords[:, :2].div(2).floor().sum(1) % 2) == 0) & (torch.rand(1500, generator=g) < 0.7)
    coords[:, 2] += box * torch.rand(1500, generator=g)
    whole = PointBatch(coords=coords, feats=torch.zeros(1500, 0), offsets=torch.tensor([0, 1500]), labels=box.long())
    batch, _ = subsample(whole, VOXEL)
    net = make_net(in_channels=0, num_classes=2, **KINDS[kind])
    levels = net.levels(batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = cross_entropy(net(batch, levels).logits, batch.labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.4 and losses[-1] < 0.35 * losses[0] and math.isfinite(losses[-1])


@pytest.mark.parametrize("batch", [cloud(60), clouds()], ids=["complete", "with gaps"])
def test_a_training_step_compiles(batch):
    net, compiled = make_net().train(), make_net().train()
    levels = net.levels(batch)
    labels = torch.arange(batch.num_rows) % 4
    forward = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    losses = [cross_entropy(f(batch, levels).logits, labels) for f in (net, forward)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, own), other in zip(net.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, own.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for (name, own), other in zip(net.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(other, own, msg=lambda m, n=name: f"{n}: {m}")


def test_autocast():
    net, batch = make_net(), clouds()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(net, batch).logits.float().square().mean()
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
    with pytest.raises(ValueError, match="neighbors needs 3 values of at least 1"):
        make_net(neighbors=(8, 8))
    with pytest.raises(ValueError, match="multiples of share 4"):
        make_net(widths=(8, 16, 18))
