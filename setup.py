"""Builds the kernels with ninja, then packages them.

Three libraries, none of which needs another's compiler or headers:

* pcseg/lib/libpcseg_cpu.so    CPU kernels, once per instruction set, with torch bindings (stable ABI, no Python)
* pcseg/lib/libpcseg_cuda.so   CUDA kernels with torch bindings; built when nvcc is here, GPU or not
* pcseg/_numpy.*.so            CPU kernels on NumPy arrays (pybind11, so one file per Python)

Environment: PCSEG_CUDA=0 leaves CUDA out; PCSEG_CUDA_ARCHS lists its architectures (default 75;80;90;120);
PCSEG_WERROR=1 turns warnings into errors; MAX_JOBS limits the compilers at work at a time.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
KERNELS, BINDINGS = Path("csrc/kernels"), Path("csrc/bindings")
TORCH_TARGET = "0x020b000000000000"  # 2.11: the oldest torch the libraries run under
DEFAULT_CUDA_ARCHS = "75;80;90;120"
WITHOUT_ISA = {"isa.cpp"}  # chooses among the versions, so it exists once

# The portable objects come first: where the linker finds one inline function in several objects it keeps the first,
# and only that one runs on every processor.
ISA_FLAGS = {"portable": ""}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = "-mavx2 -mfma -mf16c -mbmi -mbmi2 -mlzcnt -mpopcnt"
    ISA_FLAGS["avx512"] = (
        ISA_FLAGS["avx2"] + " -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512cd -mprefer-vector-width=512"
    )


def torch_folder() -> Path | None:
    """Folder of the torch package whose headers we compile against: a build needs no running torch.

    An isolated build (plain ``pip install .``) hides the environment's packages; they are still where this
    interpreter keeps them.
    """
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        return Path(spec.origin).parent
    for key in ("platlib", "purelib"):
        folder = Path(sysconfig.get_paths()[key]) / "torch"
        if (folder / "include").is_dir():
            return folder
    return None


def nvcc() -> str | None:
    if os.environ.get("PCSEG_CUDA", "1") == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin" if home else None)


def archs() -> list[str]:
    wanted = os.environ.get("PCSEG_CUDA_ARCHS", DEFAULT_CUDA_ARCHS).replace(",", ";").split(";")
    return [a.strip().replace(".", "") for a in wanted if a.strip()]


def static_cudart(compiler: str) -> Path:
    """Folder of libcudart_static.a: linked in, so the CUDA version of the torch wheel does not matter.

    nvcc says where its toolkit is: the nvcc on PATH may be a link or a script that only calls the real one.
    """
    told = subprocess.run([compiler, "--dryrun", "-c", "none.cu"], capture_output=True, text=True).stderr
    tops = [Path(line.split("TOP=", 1)[1]) for line in told.splitlines() if "TOP=" in line]
    roots = [top.resolve() for top in tops] or [Path(compiler).resolve().parent.parent]
    for folder in (roots[0] / "lib64", roots[0] / "lib", *sorted(roots[0].glob("targets/*/lib"))):
        if (folder / "libcudart_static.a").exists():
            return folder
    sys.exit(
        f"pcseg: nvcc is {compiler}, but libcudart_static.a is not under {roots[0]}: set CUDA_HOME or PCSEG_CUDA=0."
    )


class NinjaFile:
    """Collects rules and build lines; paths are relative to the checkout."""

    def __init__(self, build: Path):
        self.build, self.lines = build, ["ninja_required_version = 1.5", f"builddir = {build}"]

    def rule(self, name: str, command: str, depfile: bool = False) -> None:
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
        if depfile:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]

    def object(self, rule: str, source: Path, tag: str = "", **variables: str) -> Path:
        out = self.build / (source.stem + source.suffix.replace(".", "_") + (f".{tag}" if tag else "") + ".o")
        self.lines.append(f"build {out}: {rule} {source}")
        self.lines += [f"  {k} = {v}" for k, v in variables.items()]
        return out

    def link(self, rule: str, out: Path, objects: list[Path], implicit: Path | None = None, **variables: str) -> None:
        waits_for = f" | {implicit}" if implicit else ""
        self.lines.append(f"build {out}: {rule} {' '.join(map(str, objects))}{waits_for}")
        self.lines += [f"  {k} = {v}" for k, v in variables.items()]
        self.lines.append(f"default {out}")

    def write(self) -> Path:
        path = self.build / "build.ninja"
        text = "\n".join(self.lines) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return path


class Build(build_ext):
    """``build_ext`` that writes a ninja file, runs it, and puts the libraries where setuptools wants them."""

    def run(self) -> None:
        os.chdir(ROOT)
        torch = torch_folder()
        if torch is None:
            sys.exit("pcseg: no torch headers found. Install torch >= 2.11 first (pip install torch), then repeat.")
        out = Path("pcseg") if self.inplace else Path(self.build_lib) / "pcseg"
        build = ROOT / "build" / "ninja"
        build.mkdir(parents=True, exist_ok=True)
        (out / "lib").mkdir(parents=True, exist_ok=True)
        ninja_file = self.describe(NinjaFile(build.relative_to(ROOT)), torch, out)
        ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts")) / "ninja")
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        if subprocess.run([ninja, "-f", str(ninja_file), "-j", jobs]).returncode:
            sys.exit("pcseg: the build failed; the compiler's messages are above.")

    def describe(self, n: NinjaFile, torch: Path, out: Path) -> Path:
        cxx = os.environ.get("CXX", "g++")
        warnings = "-Wall -Wextra" + (" -Werror" if os.environ.get("PCSEG_WERROR") == "1" else "")
        # No fused multiply-add unless a kernel asks for it: distances, and so ties, fall alike on every device.
        base = f"-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno {warnings} -pthread"
        stable = f"-DTORCH_TARGET_VERSION={TORCH_TARGET} -isystem {torch}/include"
        n.rule("kernel", f"{cxx} {base} $isa -MMD -MF $out.d -c $in -o $out", depfile=True)
        n.rule("binding", f"{cxx} {base} -O1 {stable} $extra -MMD -MF $out.d -c $in -o $out", depfile=True)
        n.rule("shared", f"{cxx} -shared -pthread -Wl,--as-needed -Wl,--exclude-libs,ALL $in -o $out $libs")

        kernels = [
            n.object("kernel", source, isa, isa=f"-DPCSEG_ISA={isa} {flags}")
            for isa, flags in ISA_FLAGS.items()
            for source in sorted(KERNELS.glob("*.cpp"))
            if source.name not in WITHOUT_ISA
        ] + [n.object("kernel", KERNELS / name) for name in sorted(WITHOUT_ISA)]
        bindings = [n.object("binding", source) for source in sorted(BINDINGS.glob("torch_*.cpp"))]
        torch_libs = f"-L{torch}/lib -Wl,--no-as-needed -ltorch_cpu"
        n.link("shared", out / "lib" / "libpcseg_cpu.so", kernels + bindings, libs=torch_libs)

        self.describe_cuda(n, torch, out, torch_libs)
        self.describe_numpy(n, out, kernels)
        return n.write()

    def describe_cuda(self, n: NinjaFile, torch: Path, out: Path, torch_libs: str) -> None:
        compiler, sources = nvcc(), sorted(KERNELS.glob("*.cu"))
        if not compiler or not sources:
            return
        # All machine codes, and the PTX that newer GPUs compile at load, come from the oldest architecture's front
        # end: compiling for each architecture from its own takes twice as long, and no kernel here needs it.
        oldest = min(archs(), key=int)
        codes = f"-gencode 'arch=compute_{oldest},code=[{','.join(f'sm_{a}' for a in archs())},compute_{oldest}]'"
        werror = " -Werror all-warnings" if os.environ.get("PCSEG_WERROR") == "1" else ""
        # No fused multiply-add unless a kernel asks for it, as on the CPU.
        flags = f"-std=c++20 -O3 --fmad=false --expt-relaxed-constexpr -Xcompiler -fPIC,-fvisibility=hidden{werror}"
        n.rule("cuda", f"{compiler} {flags} {codes} -MD -MF $out.d -c $in -o $out", depfile=True)
        # The CPU wheel of torch has no libtorch_cuda to link against. An empty stand-in of the same name records the
        # dependency; at run time the real one is already loaded.
        stub = n.build / "libtorch_cuda.so"
        n.rule("stub", f"echo | {cxx_of(os.environ)} -shared -fPIC -x c++ - -Wl,-soname,libtorch_cuda.so -o $out")
        n.lines.append(f"build {stub}: stub")
        objects = [n.object("cuda", s) for s in sources]
        objects += [n.object("binding", s) for s in sorted(BINDINGS.glob("cuda_*.cpp"))]
        n.link(
            "shared",
            out / "lib" / "libpcseg_cuda.so",
            objects,
            # Not an input: those may be dropped where no symbol needs them, and the stand-in has none.
            libs=f"{torch_libs} {stub} -L{static_cudart(compiler)} -lcudart_static -ldl -lrt",
            implicit=stub,
        )

    def describe_numpy(self, n: NinjaFile, out: Path, kernels: list[Path]) -> None:
        if not (BINDINGS / "numpy.cpp").exists():
            return
        import pybind11

        includes = f"-isystem {pybind11.get_include()} -isystem {sysconfig.get_path('include')}"
        module = n.object("binding", BINDINGS / "numpy.cpp", extra=includes)
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        n.link("shared", out / f"_numpy{suffix}", [*kernels, module], libs="")

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def cxx_of(environment: os._Environ[str]) -> str:
    return environment.get("CXX", "g++")


class Wheel(bdist_wheel):
    """One wheel for every Python: only the optional NumPy face is bound to one, and it is left unused elsewhere."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


# torch is needed to build only where the environment has none yet: pip then brings it into its isolated build.
setup(
    ext_modules=[Extension("pcseg._libraries", [])],  # marks the wheel as platform-specific; Build makes the rest
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
    setup_requires=[] if torch_folder() else ["torch>=2.11"],
)
