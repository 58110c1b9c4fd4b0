# Everything runs in a virtual environment of its own, made on first use.
#   make demo       install, train on digits, sample with dopri5, say where the pictures are
#   make test       the test suite          make test-slow    the tests that take minutes too
#   make lint       ruff and mypy           make test-bench   comparisons with other libraries
#   make bench      benchmarks, beside last make clean        remove the environment and caches
# PYTHON chooses the interpreter the environment is made from, VENV where it is put.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# One process a core; more than eight torch processes cost more memory than they save time.
PARALLEL = -n auto --maxprocesses 8

.PHONY: demo test test-slow test-bench lint bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.py constraints.txt | $(BIN)/python
	@echo "Installing sdeflow into $(VENV)"
	$(PIP) -e .
	@touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(PIP) -e ".[$*]"
	@touch $@

.SECONDARY:

demo: $(VENV)/installed
	$(BIN)/sdeflow train --sde vp --etsdm
	$(BIN)/sdeflow sample --solver dopri5

test: $(VENV)/installed-test
	@$(PYTEST) $(PARALLEL)

test-slow: $(VENV)/installed-test
	@$(PYTEST) $(PARALLEL) --slow

test-bench: $(VENV)/installed-test $(VENV)/installed-bench
	@$(PYTEST) $(PARALLEL) --bench

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-bench
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/record.py

clean:
	rm -rf $(VENV) .venv-ci .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find solvers sdeflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
