"""Prepare LAS and LAZ files.

python -m data_prep.las SCAN.laz ... --out DIR --label-map 1=other 2=ground 6=building default=ignore
"""

from __future__ import annotations

import tyro

from data_prep.scans import Options, prepare_all
from pcseg.errors import run_command


def main() -> None:
    prepare_all(tyro.cli(Options, prog="python -m data_prep.las", description=Options.__doc__), (".las", ".laz"))


if __name__ == "__main__":
    run_command(main)
