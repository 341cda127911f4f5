# make demo   compile the digits network for arm-cpu and for this machine, search a smaller one for arm-cpu, run all, write a report
# make test   pytest (FAST=1 leaves out slow tests, JOBS=1 runs one at a time) and the C runtime's tests (CTest, sanitizers)
# make lint   ruff, mypy --strict, import-linter, clang-format
# make bench  our binaries beside OpenVINO, ONNX Runtime, LiteRT and PyTorch; wall time of compilations; about an hour.
#             QUICK=1: shorter rounds; ONLY=resnet20: what matches; files are kept in build/bench
# make clean  remove what was built; .venv stays (rm -r .venv removes it)

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
DEMO := build/demo
LINT := build/lint
PYTEST_FLAGS ?=
JOBS ?= 2
RUNTIME_SOURCES = $(shell find kernels tests -name '*.[ch]' -o -name '*.cc')
# Waiting threads of torch sleep instead of spinning: with several processes on few cores spinning costs ten times.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# torch first: its exact version, before anything that only asks for some torch.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "haqnas needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable '.[examples]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/haqnas compile examples/digits.py --target arm-cpu -o $(DEMO)/arm-cpu
	$(BIN)/haqnas compile examples/digits.py --target host -o $(DEMO)/host
	$(BIN)/haqnas compile examples/digits.py --target arm-cpu --architecture auto --supernet-epochs 150 --latency-budget 70% \
	  --trials 60 --qat-epochs 60 -o $(DEMO)/searched
	$(BIN)/python examples/evaluate_binary.py examples/digits.py $(DEMO)/arm-cpu $(DEMO)/host $(DEMO)/searched
	@$(BIN)/haqnas report $(DEMO)/searched | sed 's/^/report: /'

test: $(VENV)/installed-dev
	@command -v cmake > /dev/null || { echo "make test needs cmake and a C++ compiler (Debian, Ubuntu: apt install cmake g++)" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:benchmark -m "not benchmarks" -n $(JOBS) $(if $(FAST),--fast) $(PYTEST_FLAGS)
	mkdir -p build && cmake -S . -B build/cmake -DCMAKE_BUILD_TYPE=Debug > build/cmake.log || { cat build/cmake.log; exit 1; }
	cmake --build build/cmake --parallel $(JOBS)
	ctest --test-dir build/cmake --output-on-failure

# cli/, cmake/, kernels/ and hw_profiles/ are folders of the package `haqnas` only once it is built, so the tools that follow
# imports read a built tree; sed turns its paths back into those of the sources.
lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(LINT)
	$(BIN)/python -c 'from setuptools import setup; setup()' --quiet build_py --build-lib $(LINT)
	cd $(LINT) && PYTHONPATH= $(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy --package haqnas \
	  | sed -E 's#^haqnas/(cli|cmake|kernels|hw_profiles)/#\1/#'
	cd $(LINT) && $(BIN)/lint-imports --config ../../pyproject.toml --no-cache
	$(BIN)/clang-format --dry-run --Werror $(RUNTIME_SOURCES)

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(BIN)/pip install --quiet "$(TORCH)" --editable '.[bench]'
	@touch $@

bench: $(VENV)/installed-bench
	mkdir -p build/bench
	$(BIN)/python -m pytest tests/benchmarks -m benchmarks $(if $(QUICK),--quick) $(if $(ONLY),-k '$(ONLY)') -s -p no:xdist \
	  --benchmark-columns=median,iqr,rounds --benchmark-sort=name --benchmark-json=build/bench/pytest.json

clean:
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
