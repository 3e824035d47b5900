# Everything a fresh machine needs: `make demo`, then `make test`. See README.md for the plain pip lines.
#   PYTHON=…   interpreter for .venv (3.11 or 3.12; found by itself when not given)
#   VENV=…     where the environment lives (.venv)
#   BUDGET=…   how long the demo searches (30s)

VENV   ?= .venv
BUDGET ?= 30s
PYTHON ?=

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# Tests of what is pure or cheap, a few seconds a folder: `make check` has a minute.
FAST   := tests/contract tests/store tests/report tests/bundle tests/repo tests/spec/test_load.py \
          tests/spec/test_load_errors.py tests/isolate/test_tensors.py tests/evaluate/test_rules.py \
          tests/evaluate/test_tolerance.py tests/evaluate/test_statistics.py tests/evaluate/test_oracle.py \
          tests/evolve/test_policies.py tests/evolve/test_budget.py tests/synth/test_structure.py
INPUTS := pyproject.toml backends/cpu/pyproject.toml backends/nvidia/pyproject.toml constraints.txt

.PHONY: demo test check lint compiler clean help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help:
	@echo "make demo    install, evolve examples/rmsnorm.yaml for $(BUDGET), print the result"
	@echo "make test    ruff, mypy --strict, import-linter and every test"
	@echo "make check   the fast subset, under a minute"
	@echo "make clean   remove $(VENV) and caches"

demo: compiler $(VENV)/.installed
	@$(BIN)/kevolve evolve examples/rmsnorm.yaml --backend cpu --budget $(BUDGET) --seed 0

compiler:
	@command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	  echo "setup: no C++ compiler on PATH. Install one: 'apt-get install g++' or 'dnf install gcc-c++'" >&2; \
	  exit 2; }

test: compiler $(VENV)/.installed-test lint
	@$(BIN)/python -m pytest

check: $(VENV)/.installed-test
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "check: run '$(BIN)/ruff format .'" >&2; exit 1; }
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -m "not slow and not gpu" $(FAST)

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check . || { echo "lint: run '$(BIN)/ruff format .'" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# An interpreter counts only if it runs and is 3.11 or 3.12 (a version manager's shim may exist and fail).
$(BIN)/python:
	@for python in $(PYTHON) $(if $(PYTHON),,python3 python3.12 python3.11); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
	    echo "setup: $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	      echo "setup: '$$python -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }; \
	    exit 0; \
	  fi; \
	done; \
	echo "setup: no Python 3.11 or 3.12 found$(if $(PYTHON), at '$(PYTHON)'). Install one or name it: make PYTHON=/path/to/python3.11" >&2; \
	exit 2

$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	@echo "setup: installing kevolve and kevolve-cpu (torch is about 200 MB; the first time takes minutes)"
	@$(PIP) install -qq --constraint constraints.txt --editable . --editable backends/cpu || { \
	  echo "setup: pip failed (above); 'make clean' starts over" >&2; exit 2; }
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "setup: installing the test tools"
	@$(PIP) install -qq --constraint constraints.txt --editable '.[test]' \
	  --editable 'backends/nvidia[cuda,cute]' || { \
	  echo "setup: pip failed (above); 'make clean' starts over" >&2; exit 2; }
	@touch $@
