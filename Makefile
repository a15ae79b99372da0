# Everything from a fresh checkout. `make train` is the whole story on real data; `make test` the whole suite.
#
#   make train [CUDA=1]   environment, build, data, training, evaluation, prediction (about 10 minutes on 2 cores)
#   make test             the test suite, lint and types
#   make test-all         the long tests too
#   make test-scatter     torch-scatter beside our own segment_reduce
#   make clean            build products; the environment, data and runs stay
#
# PYTHON=python3.12       the interpreter the environment is made from
# TORCH_INDEX=URL         where pip finds torch's CPU (or CUDA) wheels, if not in its default index

PYTHON ?= python3
VENV ?= .venv
TORCH ?= 2.13.0
RUN ?= runs/ahn3_kpconv
DATA ?= data/ahn3

BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.installed

.PHONY: train test test-all test-scatter lint install clean
.DEFAULT_GOAL := train

install: $(STAMP)

$(STAMP): pyproject.toml setup.py $(wildcard csrc/kernels/* csrc/bindings/*)
	PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" CUDA="$(CUDA)" sh .ci/install
	touch $@

# Preparing again is quick where nothing changed: the scenes' recipes are compared first.
train: $(STAMP)
	$(PY) -m data_prep.las samples/ahn3_delft/*.laz --out $(DATA) --config configs/ahn3/kpconv.py
	$(PY) -m pcseg.train configs/ahn3/kpconv.py --run $(RUN)
	$(PY) -m pcseg.predict $(RUN) samples/ahn3_delft/crop_2.laz -o $(RUN)/predictions --votes 4
	$(PY) -m pcseg.evaluate $(RUN) --protocol full/votes=4/scene
	@echo "curves, checkpoints and metrics.json: $(RUN)"
	@echo "crop_2, classified as if it had no labels: $(RUN)/predictions"

test: $(STAMP) lint
	$(PY) -m pytest -m "not slow"

test-all: $(STAMP) lint
	$(PY) -m pytest

# torch-scatter as the second backend of segment_reduce: it has to be compiled, which takes minutes.
test-scatter: $(STAMP)
	$(PY) -m pip install --quiet --no-build-isolation -e ".[scatter]"
	$(PY) -m pytest tests/scatter

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

clean:
	rm -rf build pcseg/lib/*.so pcseg/_numpy*.so *.egg-info
