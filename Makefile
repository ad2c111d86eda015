# `make demo` and `make test` set up what they need; each works as the only command on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
CONSTRAINTS ?=
TESTS ?= -m "not slow"
WORKERS ?= 2

.PHONY: demo test test-all lint format notebooks clean
.DEFAULT_GOAL := test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(PIP) $(CONSTRAINTS) -e ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(PIP) $(CONSTRAINTS) -e ".[$(or $(EXTRAS),dev)]"
	touch $@

demo: $(VENV)/.demo  ## pre-train, fine-tune, adapt and meta-learn on real handwritten digits
	$(VENV)/bin/jtl demo

test: $(VENV)/.test  ## all tests but the slow ones
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

test-all: $(VENV)/.test  ## with those on real data and those that kill processes
	$(MAKE) test TESTS=""

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

notebooks: $(VENV)/.test  ## runs every notebook from an empty state
	$(VENV)/bin/python notebooks/execute.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
