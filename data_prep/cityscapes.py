"""Prepare Cityscapes: leftImg8bit and gtFine, as folders or in one zip file.

python -m data_prep.cityscapes --raw cityscapes --out data/cityscapes --workers 4
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import tyro

from data_prep.image_release import IMAGES, ImageFiles, image_job
from data_prep.release import Release, ReleaseOptions, run_release
from pcseg.datasets import cityscapes
from pcseg.errors import InputError, run_command
from pcseg.io.raw_tree import RawTree

_IMAGE = re.compile(r"(?:^|/)leftImg8bit/(train|val|test)/[^/]+/(\w+_\d+_\d+)_leftImg8bit\.png$")
_MASK = re.compile(r"(?:^|/)gtFine/(train|val|test)/[^/]+/(\w+_\d+_\d+)_gtFine_labelIds\.png$")


def find(raw: Path) -> Release:
    """The images of a download. Masks of the test part hold nothing, and are left out.

    Raises:
        InputError: there are none.
    """
    tree = RawTree.open(raw)
    images = {m[2]: (m[1], name) for name in sorted(tree.sizes) if (m := _IMAGE.search(name))}
    masks = {m[2]: name for name in tree.sizes if (m := _MASK.search(name))}
    if not images:
        raise InputError(
            f"{raw}: holds no image (leftImg8bit/train/CITY/NAME_leftImg8bit.png); "
            f"name the folder with leftImg8bit and gtFine"
        )
    jobs, splits = [], {split: [] for split in cityscapes.IMAGES}
    for name, (split, image) in images.items():
        mask = masks.get(name) if split != "test" else None
        files = ImageFiles(
            tree=tree.only([file for file in (image, mask) if file is not None]),
            name=name,
            image=image,
            mask=mask,
            why=None if split == "test" else f"is in the {split} part",
        )
        jobs.append(image_job(files, cityscapes.CLASS_NAMES, cityscapes.CODES, {"release": "cityscapes"}))
        splits[split].append(name)
    findings = [
        f"{split}: {len(splits[split])} of {due} images are here"
        for split, due in cityscapes.IMAGES.items()
        if len(splits[split]) != due
    ]
    present = {split: names for split, names in splits.items() if names}
    return Release(
        data_set="cityscapes", version="fine", jobs=jobs, skipped=tree.refusals(), findings=findings, splits=present
    )


def main(argv: Sequence[str] | None = None) -> None:
    prog = "python -m data_prep.cityscapes"
    options = tyro.cli(ReleaseOptions, args=argv, prog=prog, description=ReleaseOptions.__doc__)
    run_release(options, find, layout=IMAGES)


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.cityscapes import main as run

    run_command(run)
