# Two commands do all set-up on a fresh machine: `make run` and `make test`. uv is used where it is installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

ifeq ($(UV),)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
MAKE_VENV = $(PYTHON) -m venv $(VENV)
else
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
MAKE_VENV = $(UV) venv --quiet --python $(PYTHON) $(VENV)
endif

.PHONY: run test lint clean

run: $(VENV)/.run
	$(BIN)/codesign search --device orin --latency 20ms --baseline qwen2.5-0.5b

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	$(MAKE_VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run tests/constraints.txt
	$(INSTALL) -c tests/constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
