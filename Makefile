# make run    installs what is needed and starts the daemon on ./var
# make test   lint, types and tests
# make help   the rest

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CONFIG ?= config.yaml

.PHONY: help run test lint types tests coverage under-systemd bench test-programs soak fuzz wheel clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## Start the daemon on ./var with the shipped config.yaml
	@$(BIN)/dfwatch run --config $(CONFIG)

test: lint types tests ## Lint, types and tests, as CI runs them

lint: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developer
	$(BIN)/mypy

tests: $(VENV)/.developer
	$(BIN)/python -m pytest

coverage: $(VENV)/.developer ## The tests with line and branch coverage; at least 90 % is wanted
	$(BIN)/python -m pytest --cov --cov-fail-under=90

test-programs: ## Install the programs that some tests run, which are skipped without (Debian; root or sudo)
	tools/test-programs.sh

bench: $(VENV)/.developer ## Ratios against an older pipeline, bare decoding, bare inference (ARGS="--only forward")
	$(BIN)/python -m benchmarks $(ARGS)

under-systemd: $(VENV)/.developer ## The shipped unit and model under a real systemd, in namespaces of its own (root)
	tools/under-systemd.sh $(BIN)/python

soak: $(VENV)/.developer ## Ten minutes of mixed senders, hostile files and kill -9, then a ledger (ARGS="--minutes 60")
	$(BIN)/python -m tools.soak $(ARGS)

fuzz: $(VENV)/.developer ## Mutated real videos through the real reader (ARGS="--cases 5000")
	$(BIN)/python -m tools.fuzz $(ARGS)

wheel: $(VENV)/.developer ## Build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis htmlcov .coverage*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing dfwatch and what it needs (several GB the first time) ..."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.developer: pyproject.toml | $(VENV)/bin/python
	@echo "Installing dfwatch and what its tests need (several GB the first time) ..."
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@ $(VENV)/.installed
