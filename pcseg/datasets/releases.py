"""Published data sets, told by the names of their folders."""

from __future__ import annotations

import re
from pathlib import Path

IMAGE_RELEASES = ("voc", "cityscapes")
SCENE_RELEASES = ("s3dis", "scannet", "sensaturban", "semantickitti", "pandaset", "tabletop")


def preparing(root: Path, *, scenes: bool) -> str | None:
    """The command that makes this folder of scenes, or of images, from a download; None: it is of no published set."""
    first = re.match(r"[a-z]+\d?[a-z]*", root.name.lower())  # voc_p10 is made by voc, s3dis_fold1 by s3dis
    name = first[0].rstrip("0123456789") if first else ""
    if name not in (SCENE_RELEASES if scenes else IMAGE_RELEASES):
        return None
    return f"python -m data_prep.{name} --raw DOWNLOAD --out {root}"
