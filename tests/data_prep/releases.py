"""What the makers of small releases share: zip files, comparisons, and a run of two steps."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from pcseg.config import TrainConfig
from pcseg.config_file import load_config
from pcseg.train import train

ROOT = Path(__file__).parents[2]
SMALL = {
    "kpconv": {"num_levels": 2, "width": 16, "deformable_levels": ()},
    "point_transformer": {
        "widths": (16, 32),
        "encoder_blocks": (1, 1),
        "decoder_blocks": (0, 1),
        "neighbors": (8, 8),
    },
}


def zipped(folder: Path, target: Path) -> Path:
    """A folder as a zip file; names start with the folder's own."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent).as_posix())
    return target


def content(root: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def stamps(root: Path) -> dict[str, int]:
    """When each scene was written."""
    return {f.parent.name: f.stat().st_mtime_ns for f in root.glob("*/scene.json")}


def two_steps(name: str, root: Path, folder: Path, **data: object) -> dict:
    """Train a shipped config on a prepared folder, its network made small; the scores at the end.

    Args:
        data: further fields of the config's ``data``.
    """
    config = load_config(ROOT / "configs" / name)
    values = config.model_dump()
    values["data"] |= {"root": root, **data}
    values["data"]["crop"]["max_voxels"] = 300
    values["model"] |= SMALL[config.model.kind]
    values |= {"steps": 2, "batch_size": 2, "accumulate": 1}
    train(TrainConfig.model_validate(values), folder, device="cpu")
    return json.loads((folder / "metrics.json").read_text())
