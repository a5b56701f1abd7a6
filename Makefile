# make sweep: environment, then the main job.   make test: environment, then tests, lint, types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A file stays with one process, which has its fixtures.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Container images often set it. Then every process compiles again what it loads: 20 seconds for a driver with its libraries.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup sweep test test-all quick-test chaos lint lint-and-compile compile bench gpu-proof ui optuna-ui clean

help:
	@echo "make sweep       set up, then search Fashion-MNIST in the default size (about 12 minutes on 2 CPU cores)"
	@echo "make test        set up, then lint, types, import contracts and the tests, of the long ones a third (about 6 minutes on 2 CPU cores)"
	@echo "make test-all    the same with every test"
	@echo "make quick-test  the tests that start no sweep"
	@echo "make chaos       a sweep under 50 faults of 23 kinds (make test has five of them; about 15 minutes)"
	@echo "make bench       every benchmark: step, growth, reports, threads, peers (about 15 minutes on 2 CPU cores)"
	@echo "make gpu-proof   on a machine with a GPU: all that has to be measured on one, in under 12 minutes"
	@echo "make ui          MLflow's pages on http://127.0.0.1:5000, with a link to each sweep"
	@echo "make optuna-ui   optuna-dashboard on the latest study, or on that of SWEEP=NAME"
	@echo "make clean       remove the environment and caches; sweeps stay"

setup: $(READY)

# pip compiles nothing: Python compiles what it loads, and all files of all packages take longer than their installation.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies (several GB with CUDA's libraries; minutes)"
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

sweep: setup
	$(BIN)/python search/run.py --dataset fashion_mnist

test: setup lint-and-compile
	$(PYTEST) --long-in-turn

test-all: setup lint-and-compile
	$(PYTEST)

lint-and-compile: setup
	$(MAKE) --jobs=2 --output-sync lint compile

# One process compiles what the tests load, while mypy has the other core: three at once would each compile all of it.
compile: setup
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true

quick-test: setup
	$(BIN)/python -m pytest -m 'not sweep'

chaos: setup
	GBC_CHAOS_FAULTS=50 $(BIN)/python -m pytest -s tests/search/test_chaos.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup
	$(BIN)/python tests/benchmarks/run.py

gpu-proof: setup
	$(BIN)/python tests/benchmarks/gpu_proof.py

ui: setup
	$(BIN)/python search/ui.py

optuna-ui: setup
	$(BIN)/python -c 'import optuna_dashboard' 2>/dev/null || $(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dashboard]'
	$(BIN)/python search/ui.py --optuna $(if $(SWEEP),--sweep $(SWEEP))

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
