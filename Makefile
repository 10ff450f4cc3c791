# What developers run; `make` alone lists it. PYTHON is that of an environment with `pip install -e '.[test]'`.
PYTHON ?= python
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
TRIALS ?= 26
ALL_CORES = OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(CORES) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help check counts fast test trust bench gpu docs

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

check:  ## Linter, format, strict types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

counts:  ## Circles and upward imports, lengths, shared lines: what a test holds at none
	@$(PYTHON) -m tests.house

fast:  ## Tests that are neither slow nor distributed, with their coverage
	$(PYTHON) -m pytest --cov=wasskit --cov-report=term

test:  ## All tests
	$(ALL_CORES) -m ""

trust:  ## Every trial of every training command (TRIALS=26)
	$(PYTHON) -m pytest tests/trust -m "" --trials $(TRIALS)

bench:  ## Every benchmark as ratios to plain forms and other packages, into the history and the tables of it
	$(PYTHON) benchmarks/run.py --peers

gpu:  ## Whether all is right and fast on this machine's GPU, in less than nine minutes
	$(PYTHON) benchmarks/gpu.py

docs:  ## The documents as a site in docs/_build (needs `pip install -e '.[docs]'`)
	$(PYTHON) -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"
