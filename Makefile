# What to type; `make help` lists it. Needs Python 3.11 or later (with venv) and nothing else.

PRESET ?= digits
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
UV := UV_PYTHON_DOWNLOADS=never $(BIN)/uv
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
# Two processes, a file in one of them; the tests that took longest are printed.
TWO := -n 2 --dist loadfile --no-loadscope-reorder --durations 20 --durations-min 2
# Some images forbid Python to keep what it compiles, and then each process compiles all of torch, Ray and MLflow.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo test test-all test-xla bench bench-gpu lint format lock ui report clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(READY)  ## create .venv with the locked versions; does nothing when it is up to date

demo: env  ## the whole pipeline on handwritten digits, then where to look; PRESET=smoke for a quick one
	$(BIN)/vimctl run --preset $(PRESET)

test: env  ## what to run before a commit: unit tests and the quick integration tests
	$(PYTEST) $(TWO) tests/integration tests/unit

test-all: env test-xla  ## the rest: slow tests, kills, several nodes, a browser, XLA
	$(PYTEST) $(TWO) -m "slow or cluster" --timeout 1200 tests/cluster tests/integration tests/unit

test-xla: env  ## the XLA lane on 4 pretended devices; a process a file, because SPMD holds for a whole process, large files first
	ls -S tests/xla/test_*.py | xargs -n 1 -P 2 $(PYTEST) -q -m xla

bench: env  ## training speed beside peers on this CPU, to tests/benchmarks/results
	$(BIN)/python -m tests.benchmarks

bench-gpu:  ## the same on CUDA, by .venv or else by PYTHON's own torch; without a GPU at toy size, not measured
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.benchmarks --gpu

lint: env  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env  ## apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: env  ## MLflow and Dagster on loopback
	$(BIN)/vimctl ui

report: env  ## the figures of the last run; PRESET=... chooses which
	$(BIN)/vimctl report --preset $(PRESET)

lock: $(BIN)/uv  ## compile infra/requirements.in and pyproject.toml to infra/constraints.txt
	$(UV) pip compile pyproject.toml infra/requirements.in --extra gcp --extra gke --extra postgres --extra bench --extra dev \
		--universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--quiet --output-file infra/constraints.txt

clean:  ## remove caches and build output; artifacts and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later with venv and ensurepip found; install one (Debian: python3-venv) or set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv --constraint infra/constraints.txt

$(READY): infra/constraints.txt pyproject.toml | $(BIN)/uv
	$(UV) pip install --python $(BIN)/python --requirement infra/constraints.txt
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
