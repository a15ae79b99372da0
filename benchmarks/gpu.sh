#!/bin/sh
# Builds, checks and times the CUDA half on a machine with a GPU, in one call of under 8 minutes:
#
#   sh benchmarks/gpu.sh [OUT]      OUT: where results go, default benchmarks/results
#
# Needs torch >= 2.11 for CUDA, nvcc, numpy, scipy and pytest. Without nvcc it uses the libraries that are in pcseg/lib:
# build them anywhere with `python setup.py build_ext --inplace`; they hold no Python symbol and run with every torch >= 2.11.
# PYTHON names the interpreter. Leaves the GPU's settings as they are.
set -u
PYTHON=${PYTHON:-python3}
OUT=${1:-benchmarks/results}
mkdir -p "$OUT"
failed=0
step() { printf '\n== %s\n' "$*"; }

step "build"
if command -v nvcc >/dev/null; then
  "$PYTHON" setup.py -q build_ext --inplace || exit 1
elif [ ! -f pcseg/lib/libpcseg_cuda.so ]; then
  echo "error: no nvcc here and no pcseg/lib/libpcseg_cuda.so: build elsewhere and copy pcseg/lib" >&2
  exit 2
fi
"$PYTHON" -m pcseg.doctor || true
"$PYTHON" -c 'import sys, torch; from pcseg.ops._library import HAS_CUDA_KERNELS as k; sys.exit(not (k and torch.cuda.is_available()))' ||
  { echo "error: torch sees no GPU, or the CUDA library did not load; the lines above tell" >&2; exit 2; }

step "tests on the GPU (2 minutes)"
timeout 150 "$PYTHON" -m pytest tests/ops -q -x -k "cuda" -p no:cacheprovider >"$OUT/gpu_tests.txt" 2>&1 || failed=1
tail -n 3 "$OUT/gpu_tests.txt"

step "compute-sanitizer (2 minutes)"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 1 "$PYTHON" -m benchmarks.gpu_small \
      >"$OUT/sanitizer_$tool.txt" 2>&1 || failed=1
    tail -n 2 "$OUT/sanitizer_$tool.txt"
  done
else
  echo "not installed: skipped"
fi

step "times (3 minutes)"
timeout 240 "$PYTHON" -m benchmarks.ops --device cuda --threads 8 --budget-s 170 --out "$OUT" || failed=1
exit $failed
