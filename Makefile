# `make demo` and `make test` set up what they need; each works as the only command on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIPFLAGS)
PIPFLAGS ?=
CONSTRAINTS ?=
WORKERS ?= 2
DURATIONS ?=
MARKS ?= not slow and not whole
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(DURATIONS)
# Most of the time of a small test is compiling.
QUICKLY = XLA_FLAGS="$$($(VENV)/bin/python .ci/xla_flags.py)"
# Two that tests compare with, apart from all else: they ask for a torch that this one is not, so no dependencies.
OTHERS = torchvision==0.28.0 timm==1.0.31

BASE ?=

.PHONY: demo test test-changed test-all lint format notebooks docs clean
.DEFAULT_GOAL := test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(PIP) $(CONSTRAINTS) -e ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml Makefile
	$(PIP) $(CONSTRAINTS) -e ".[$(or $(EXTRAS),dev)]"
	$(if $(EXTRAS),,$(PIP) --no-deps --upgrade --target $(VENV)/others $(OTHERS))
	touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml
	$(PIP) $(CONSTRAINTS) -e ".[docs]"
	touch $@

demo: $(VENV)/.demo  ## pre-train, fine-tune, adapt and meta-learn on real handwritten digits
	$(VENV)/bin/jtl demo

test: $(VENV)/.test  ## all tests but the slow ones and whole runs
	$(QUICKLY) $(PYTEST) -m "$(MARKS)"

test-changed: $(VENV)/.test  ## only the tests that a change can break: those that import a changed file
	$(QUICKLY) $(PYTEST) -m "not slow" $$($(VENV)/bin/python .ci/affected.py $(BASE))

test-all: $(VENV)/.test  ## those on real data too, and those that kill processes
	$(QUICKLY) $(PYTEST) -m "not slow or compiling"
	$(PYTEST) -m "slow and not compiling" --dist load --maxschedchunk 1

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

notebooks: $(VENV)/.test  ## runs every notebook from an empty state
	$(VENV)/bin/python notebooks/execute.py

docs: $(VENV)/.docs  ## the pages of docs/ as HTML, warnings are errors
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .ruff_cache
