"""Prepare PLY files, ascii or binary, with any vertex properties.

python -m data_prep.ply SCAN.ply ... --out DIR --label-column class --label-map 0=ground 1=vegetation
"""

from __future__ import annotations

import tyro

from data_prep.scans import Options, prepare_all
from pcseg.errors import run_command


def main() -> None:
    prepare_all(tyro.cli(Options, prog="python -m data_prep.ply", description=Options.__doc__), (".ply",))


if __name__ == "__main__":
    run_command(main)
