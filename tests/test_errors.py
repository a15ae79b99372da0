"""How commands end that were stopped from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def python(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize("module", ["pcseg.evaluate", "data_prep.scans"])
def test_ctrl_c_while_modules_are_imported(tmp_path, module):
    for name in ("numpy", "torch"):
        (tmp_path / f"{name}.py").write_text("raise KeyboardInterrupt")
    done = python(tmp_path, "-m", module)
    assert (done.returncode, done.stderr) == (-2, "interrupted\n")


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("then", ["", "; sys.exit(0)"])
def test_output_that_nobody_reads_ends_silently(tmp_path, size, then):
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        f"import sys; from pcseg.errors import run_command; run_command(lambda: exec('print({size} * str(1)){then}'))"
    )
    done = python(tmp_path, "-c", code, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
