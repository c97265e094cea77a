# The workshop: GNU make and a Python 3.11 or 3.12 are all that a fresh clone needs.
# The first target that needs the environment makes it, in $(VENV), from requirements.lock.
# Another Python wants another folder: `make test PYTHON=python3.12 VENV=.venv312`.

PYTHON ?= python3
VENV ?= .venv
# Test processes, and where `make demo` writes.
JOBS ?= 2
WORKDIR ?= runs/digits

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH := $(VENV)/.torch
# One BLAS and OpenMP thread a test process; tests/conftest.py shares the cores out to XLA.
# Each process goes through neighbouring tests, which share what they compile.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test test-ci test-slow faults check format bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target does; do printf '%-16s %s\n' "$$target" "$$does"; done

install: $(INSTALLED) ## make the environment in VENV, once (PYTHON=python3, VENV=.venv)

$(INSTALLED): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"$(PYTHON) is Python " + sys.version.split()[0] + \
		", byol_jax needs 3.11 or later: make PYTHON=python3.11")'
	@echo "installing into $(VENV), once: some 100 packages, 3 GB"
	@start=$$(date +%s) \
		&& $(PYTHON) -m venv $(VENV) \
		&& $(BIN)/python -m pip install --quiet -r requirements.lock \
		&& $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . \
		&& touch $@ \
		&& echo "installed in $$(($$(date +%s) - start)) s"

# Only tests of exported folders use PyTorch; `make test` does without.
$(TORCH): $(INSTALLED) requirements-torch.lock
	@echo "installing PyTorch into $(VENV), once"
	@$(BIN)/python -m pip install --quiet -r requirements-torch.lock && touch $@

demo: $(INSTALLED) ## pre-train on the embedded digits and evaluate (WORKDIR=runs/digits)
	$(BIN)/python -m byol_jax.main --config=experiments/digits.py --workdir=$(WORKDIR)

test: $(INSTALLED) ## run the tests but the slow ones (JOBS=2)
	$(PYTEST) -m "not slow"

test-ci: $(TORCH) ## run the slow tests that CI runs beside `make test` (JOBS=2)
	$(PYTEST) -m ci

test-slow: $(TORCH) ## run every test, slow ones too (JOBS=2)
	$(PYTEST)

faults: $(INSTALLED) ## inject faults for about 80 minutes: kills, disks, images (docs/reliability.md)
	for fault in kills checkpoints full_disk mutants signals memory; do \
		echo "== $$fault" && $(BIN)/python -m tests.faults.$$fault || exit 1; \
	done

check: $(INSTALLED) ## lint, formatting, types, and which room imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## sort the imports and format
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

bench: $(INSTALLED) ## measure speed
	$(BIN)/python benchmarks/bench.py

clean: ## remove caches and build leftovers, never runs or environments
	rm -rf .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . \( -path ./.git -o -path ./runs -o -path './.venv*' -o -path './$(VENV)' \) -prune -o \
		-type d -name __pycache__ -exec rm -rf {} +
