"""What the design promises about the code itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcseg.config import TrainConfig
from pcseg.config_file import load_config
from pcseg.models import build_network

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pcseg"
SOURCES = sorted(p for folder in ("pcseg", "data_prep", "configs", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
NATIVE = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))
RUNS = sorted((ROOT / "configs").rglob("*.py"))

# A module imports only from its own group and from groups after it.
GROUPS = (
    {"train", "evaluate", "predict", "doctor", "inference", "tiles", "predictor", "run_setup", "trainer", "prefetch",
     "run_log", "optim", "features", "feature_store", "window_inference", "predict_scan", "predict_image",
     "predict_volume", "weaken", "panoptic_inference", "pseudo_labels", "vote_views"},
    {"methods"},
    {"pseudo"},
    {"models", "losses"},
    {"datasets", "metrics"},
    {"config", "config_file", "checkpoint"},
    {"label_map", "pyramid", "images", "segments", "io"},
    {"ops", "numpy_ops"},
    {"batch", "processes"},
    {"errors", "ignore", "progress"},
)  # fmt: skip
RANK = {name: rank for rank, group in enumerate(GROUPS) for name in group}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> list[str]:
    """Modules that a file imports, at its top or anywhere inside."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            assert node.module is not None
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def parts_of_package(path: Path) -> set[str]:
    return {m.split(".")[1] for m in imports(path) if m.startswith("pcseg.") and m.split(".")[1] in RANK}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_imports_go_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in RANK, f"pcseg.{own} is in no group: say where it belongs"
    wrong = [other for other in parts_of_package(path) if RANK[other] < RANK[own]]
    assert not wrong, f"pcseg.{own} imports {wrong}"


def test_nothing_in_the_package_imports_what_surrounds_it():
    outside = {"data_prep", "tests", "benchmarks", "configs"}
    for path in PACKAGE.rglob("*.py"):
        assert not outside & {module.split(".")[0] for module in imports(path)}, name_of(path)


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE], ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 500


def test_no_file_without_a_subject():
    forbidden = {"utils.py", "misc.py", "common.py", "helpers.py"}
    assert not [name_of(path) for path in SOURCES if path.name in forbidden]


def test_runs_are_short():
    assert RUNS
    for path in RUNS:
        assert len(path.read_text().splitlines()) < 40, name_of(path)


@pytest.mark.parametrize("path", NATIVE, ids=name_of)
def test_native_code_keeps_the_seam(path):
    """Kernels know no torch, bindings no CUDA."""
    included = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.M)
    if path.parent.name == "kernels":
        assert not [name for name in included if name.startswith(("torch", "ATen", "c10", "pybind11", "Python.h"))]
    else:
        theirs = [name for name in included if not (path.parent / name).exists()]
        assert not [name for name in theirs if name.startswith(("cuda", "cub/", "thrust/", "ATen/cuda", "c10/cuda"))]


def test_nothing_unfinished():
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|placeholder)\b")
    found = [f"{name_of(p)}: {m[0]}" for p in (*SOURCES, *NATIVE) if (m := marks.search(p.read_text()))]
    assert not found


def test_no_pickle():
    for path in SOURCES:
        assert not {"pickle", "dill", "cloudpickle"} & {module.split(".")[0] for module in imports(path)}, name_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            loads = isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load")
            if loads and isinstance(node, ast.Call):
                safe = {"weights_only": True, "allow_pickle": False}
                given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                wanted = "weights_only" if ast.unparse(node.func) == "torch.load" else "allow_pickle"
                assert wanted not in given or given[wanted] == safe[wanted], name_of(path)


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_runs_build_on_meta(path):
    config = load_config(path)
    assert isinstance(config, TrainConfig)
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
    with torch.device("meta"):
        model = build_network(config, max(1, len(config.data.features)))
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) > (10_000 if config.model.kind != "head" else 0)
    assert {p.device.type for p in parameters} == {"meta"}
    assert hasattr(model, "panoptic") == (config.panoptic is not None)


def test_nothing_is_imported_before_it_is_needed():
    """The heavy packages load where they are used: importing pcseg, or asking for help, stays quick."""
    heavy = "{'accelerate', 'torchmetrics', 'transformers', 'matplotlib', 'tensorboard', 'laspy', 'scipy', 'sklearn'}"
    program = f"import sys, pcseg; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["las", "pandaset", "s3dis", "scannet", "semantickitti", "sensaturban", "tabletop"])
def test_preparing_scans_needs_no_torch(name):
    """Every worker process would spend more than a second on importing it."""
    program = f"import sys, data_prep.{name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
