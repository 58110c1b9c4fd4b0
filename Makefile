# Everything runs in a virtual environment of its own, made on first use.
#   make demo       install, train on digits, sample with dopri5, say where the pictures are
#   make test       the test suite          make test-slow    the tests that take minutes too
#   make lint       ruff and mypy           make test-bench   comparisons with other libraries
#   make bench      benchmarks, beside last make clean        remove the environments and caches
#   make test-oldest  the test suite with the lowest versions that setup.py allows, Python 3.10 to 3.12
# PYTHON chooses the interpreter the environment is made from, VENV where it is put.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# One process a core; more than eight torch processes cost more memory than they save time.
PARALLEL = -n auto --maxprocesses 8

.PHONY: demo test test-slow test-bench test-oldest lint bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.py $(CONSTRAINTS) | $(BIN)/python
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

test-oldest:
	@$(MAKE) --no-print-directory test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-bench
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/record.py

clean:
	rm -rf $(VENV) .venv-ci .venv-oldest .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find solvers sdeflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
