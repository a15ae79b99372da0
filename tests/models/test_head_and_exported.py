"""A head on stored features, and networks from TorchScript and exported programs."""

import io
import json
import zipfile

import pytest
import torch
from torch import nn

from pcseg.batch import PointBatch, offsets_of
from pcseg.config import HeadConfig
from pcseg.errors import InputError
from pcseg.models import build_model
from pcseg.models.exported import load_exported


class Toy(nn.Module):
    """Features of a row from its position, its features and its cloud's size."""

    def __init__(self, out: int = 8):
        super().__init__()
        self.linear = nn.Linear(4, out)
        self.register_buffer("shift", torch.arange(out, dtype=torch.float32))

    def forward(self, coords: torch.Tensor, feats: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([coords, feats], 1)).relu() + self.shift


def batch(rows: int = 12) -> PointBatch:
    generator = torch.Generator().manual_seed(rows)
    return PointBatch(
        coords=torch.rand(rows, 3, generator=generator),
        feats=torch.rand(rows, 1, generator=generator),
        offsets=offsets_of([rows]),
    )


def save_exported(path, module=None, extra_sample=None):
    module = module or Toy()
    rows = torch.export.Dim("rows")
    sample = (torch.rand(5, 3), torch.rand(5, 1), torch.tensor([0, 5]))
    program = torch.export.export(module, sample, dynamic_shapes=({0: rows}, {0: rows}, None))
    torch.export.save(program, path)
    return module


@pytest.mark.parametrize("kind", ["script", "export"])
def test_a_foreign_network_gives_its_features(tmp_path, kind):
    path = tmp_path / ("net.pt" if kind == "script" else "net.pt2")
    module = Toy()
    if kind == "script":
        torch.jit.script(module).save(str(path))
    else:
        save_exported(path, module)
    net = load_exported(path, torch.device("cpu"))
    rows = batch()
    wanted = module(rows.coords, rows.feats, rows.offsets)
    found = net(rows, net.levels(rows))
    torch.testing.assert_close(found.feats, wanted.detach())
    assert not found.feats.requires_grad


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a zip", "is no TorchScript file"), (None, "no such file")],
)
def test_no_program_is_refused(tmp_path, content, message):
    path = tmp_path / "net.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_exported(path, torch.device("cpu"))


def test_bare_weights_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="no program"):
        load_exported(tmp_path / "weights.pt", torch.device("cpu"))


class Bomb:
    """Would run when it is unpickled."""

    def __reduce__(self):
        return (print, ("unpickled",))


def rewritten(source, target, change):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_pickled_parts_are_never_read(tmp_path, capsys):
    save_exported(tmp_path / "net.pt2")

    def pickled_weight(name, payload):
        if not name.endswith("weights_config.json"):
            return payload
        table = json.loads(payload)
        next(iter(table["config"].values()))["use_pickle"] = True
        return json.dumps(table)

    rewritten(tmp_path / "net.pt2", tmp_path / "weights.pt2", pickled_weight)
    with pytest.raises(InputError, match="pickled parts"):
        load_exported(tmp_path / "weights.pt2", torch.device("cpu"))

    bomb = io.BytesIO()
    torch.save(Bomb(), bomb)
    rewritten(
        tmp_path / "net.pt2",
        tmp_path / "sample.pt2",
        lambda name, payload: bomb.getvalue() if "/sample_inputs/" in name else payload,
    )
    with pytest.raises(InputError, match="pickled sample inputs"):
        load_exported(tmp_path / "sample.pt2", torch.device("cpu"))
    assert "unpickled" not in capsys.readouterr().out


def test_a_network_of_another_signature_is_named(tmp_path):
    torch.jit.script(Toy()).save(str(tmp_path / "net.pt"))
    net = load_exported(tmp_path / "net.pt", torch.device("cpu"))
    wide = PointBatch(coords=torch.rand(4, 3), feats=torch.rand(4, 3), offsets=offsets_of([4]))
    with pytest.raises(InputError, match=r"net.pt: fails on coords \(4, 3\), feats \(4, 3\)"):
        net(wide)


@pytest.mark.parametrize("hidden", [(), (16, 8)])
def test_a_head_learns_a_rule_of_the_features(hidden):
    torch.manual_seed(0)
    feats = torch.randn(400, 6)
    labels = (feats[:, 1] > 0).long() if not hidden else (feats[:, 0] * feats[:, 1] > 0).long()
    net = build_model(HeadConfig(voxel_size=0.1, hidden=hidden), 6, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    rows = PointBatch(coords=torch.zeros(400, 3), feats=feats, offsets=offsets_of([400]))
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(rows).logits, labels).backward()
        optimizer.step()
    right = (net(rows).logits.argmax(1) == labels).float().mean()
    assert right > 0.95
    assert net(rows).feats.shape == (400, hidden[-1] if hidden else 6)


def test_a_head_names_a_wrong_width():
    net = build_model(HeadConfig(voxel_size=0.1), 6, 2)
    with pytest.raises(ValueError, match=r"feats must be \(N, 6\)"):
        net(batch())
