# Everything runs in .venv, which the targets make themselves; all they need is Python and make.
# Each set of extras has a stamp in .venv, so a second run installs nothing unless pyproject.toml changed.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
# Each test worker has a core to itself, so the libraries below it take one thread each.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format docs bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## per-sample Jacobians by minijac and by torch, side by side
	$(PY) -m minijac $(ARGS)

test: $(VENV)/.test ## the test suite; ARGS="-k name" goes to pytest
	$(ONE_THREAD) $(PY) -m pytest -n 2 $(ARGS)

lint: $(VENV)/.test ## format, lint and type checks, changing nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(VENV)/.test ## format, and fix what the linter can fix
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(VENV)/.docs ## the documentation site, into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench: $(VENV)/.bench ## time minijac, torch and JAX on the same workloads; ARGS="--only thread" goes to table.py
	$(PY) benchmarks/thread.py
	$(PY) benchmarks/table.py $(ARGS)
	$(PY) benchmarks/sweeps.py

clean: ## remove everything that the targets made
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: EXTRAS := torch
$(VENV)/.test: EXTRAS := test,dev
$(VENV)/.docs: EXTRAS := docs
$(VENV)/.bench: EXTRAS := bench

$(VENV)/.demo $(VENV)/.test $(VENV)/.docs $(VENV)/.bench: pyproject.toml | $(VENV)/.created
	@echo "installing minijac[$(EXTRAS)] into $(VENV) (the first time takes a few minutes)"
	@$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "minijac needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@
