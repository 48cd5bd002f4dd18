# Two commands do everything on a fresh machine (Python >= 3.10, pip, make, git, gcc):
#   make demo   draw scenes, pretrain MoCo / + constrained crop / CAST, evaluate, fine-tune detectors, write the report
#   make test   lint, types, tests
# Both create the virtual environment and install first; nothing is installed outside of it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= output/demo
SEEDS  ?= 1
JOBS   ?= 2
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types unit bench clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

install: $(STAMP)  ## create the virtual environment and install the project into it

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --disable-pip-version-check -q -e ".[dev,fast]"
	@touch $@

demo: $(STAMP)  ## the main job at small size: about 9 minutes on 2 CPU cores with bf16 (OUT=folder SEEDS=3)
	$(BIN)/python tools/demo.py --out $(OUT) --seeds $(SEEDS)

test: lint types unit  ## everything CI runs: ruff, mypy, pytest

lint: $(STAMP)  ## ruff check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy over the package
	$(BIN)/mypy

unit: $(STAMP)  ## pytest on JOBS processes, one thread each
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -q --durations=15

bench: $(STAMP)  ## speed and memory of the step and of the loader, as ratios inside one run
	$(BIN)/python tools/benchmark.py step
	$(BIN)/python tools/benchmark.py data

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
