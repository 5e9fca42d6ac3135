# The first time needs a package index; afterwards every target works offline. The environment has the releases of
# requirements.lock, each with its digest; where an index or a Python lacks one of them, or with LOCKED=0, those
# that pyproject.toml allows.
.DEFAULT_GOAL := help
.PHONY: help run test quick lint docs bench fuzz lock audit clean
SHELL := /bin/sh

PY := .venv/bin/python
READY := .venv/.ready
LOCK := requirements.lock
LOCKED ?= 1
# The first Python on the path that is new enough; `make PYTHON=/path/to/python3 ...` chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1	/'

run: $(READY)  ## why is a model served over two nodes slower than over one? from YAML to a table and a picture
	$(PY) experiments/why_is_tp16_slower_than_tp8.py --out out/why_is_tp16_slower_than_tp8

test: lint  ## everything: ruff, mypy --strict, all tests
	$(PY) -m pytest -q -rs -n 2 --dist worksteal -m ""

quick: $(READY)  ## the usual loop: the tests that are not slow
	$(PY) -m pytest -q -n 2 --dist worksteal

lint: $(READY)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m mypy

fuzz: $(READY)  ## a minute of broken inputs; fails where one ends with a traceback, a hang or all memory
	$(PY) -m tests.fuzz --minutes 1

docs: $(READY)  ## the site, to open at out/site/index.html; runs every experiment in short for its picture
	$(PY) docs/site/gallery.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build -q

bench: $(READY)  ## the benchmarks: ratios measured within one run, written to docs/performance.md
	$(PY) -m benchmarks --out docs/performance.md

lock: $(READY)  ## write requirements.lock anew, for all Pythons from 3.11 on
	$(PY) -m venv .venv/lock && .venv/lock/bin/python -m pip install -q uv
	.venv/lock/bin/python -m uv pip compile pyproject.toml --extra dev --extra calibrate --extra sweep --universal \
		--python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --upgrade -o $(LOCK)

audit: $(READY)  ## look the locked releases up among known vulnerabilities; says so where they cannot be
	@$(PY) -m venv .venv/audit && .venv/audit/bin/python -m pip install -q pip-audit || \
		{ echo "audit: pip-audit cannot be installed without a package index; nothing was audited" >&2; exit 1; }
	@.venv/audit/bin/python -m tests.audit $(LOCK)

clean:  ## remove the environment and caches
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml $(LOCK)
	@test -n "$(PYTHON)" || { echo "fabricsim needs Python 3.11 or newer and found none on the path;" \
		"install one, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || \
		{ $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(PY) install -q pip; } || \
		{ echo "$(PYTHON) can make no virtual environment with pip in it;" \
		"on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@if [ "$(LOCKED)" != 0 ]; then $(PY) -m pip install -q --only-binary :all: --require-hashes -r $(LOCK) || \
		echo "the releases of $(LOCK) cannot all be had here; others that pyproject.toml allows are taken"; fi
	$(PY) -m pip install -q "hatchling>=1.27"
	$(PY) -m pip install -q --no-build-isolation -e '.[dev]'
	@touch $@
