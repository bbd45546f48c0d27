# make demo | up | test | test-all | lint | bench | screenshot | constraints | clean
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.headrace-installed
PIP := $(PY) -m pip --disable-pip-version-check
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help install system-packages snowflake-standin minilake demo up before-tests test test-all lint bench constraints clean

help:
	@echo "make demo      the main job on real input, worker killed on the way, ends with the proof"
	@echo "make up        the one-machine stack: Temporal, worker, Dagster; Ctrl-C stops it"
	@echo "make test      style, types and tests (make test-all: the slow ones too)"
	@echo "make bench     headrace sync beside COPY and ingestr on TPC-H lineitem"

install: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is missing: apt-get install python3 python3-venv" >&2; exit 1; fi
	@if [ ! -x $(PY) ] || ! $(PY) -c 'import pip' 2>/dev/null; then \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
			|| { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); \
	fi
	$(PIP) install --quiet --require-hashes --no-deps -r constraints.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	$(PY) -m orchestration.demo

up: install
	$(VENV)/bin/headrace up

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright --threads 2

# Debian packages that only the tests need; nothing to do where the programs are there.
define debian_package
	@if ! PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v $(1) >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing Debian's $(2) for the tests"; \
			export DEBIAN_FRONTEND=noninteractive; \
			{ apt-get install -qq -y --no-install-recommends $(2) \
				|| { apt-get update -qq && apt-get install -qq -y --no-install-recommends $(2); }; } >/dev/null 2>&1 \
				|| echo "apt-get could not install $(2): the tests that need it are skipped" >&2; \
		else \
			echo "$(1) is missing (as root: apt-get install $(2)): the tests that need it are skipped" >&2; \
		fi; \
	fi
endef

system-packages:
	$(call debian_package,mariadbd,mariadb-server)
	$(call debian_package,chromium,chromium)

# The Snowflake stand-in of the tests, in an environment of its own: it wants other releases than Headrace.
snowflake-standin: .venv-fakesnow/.installed

.venv-fakesnow/.installed: tests/standins/snowflake/constraints.txt | install
	$(PYTHON) -m venv --clear .venv-fakesnow
	.venv-fakesnow/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps -r $<
	@touch $@

# A second implementation of Databricks' REST shapes for a contract test; it wants another DuckDB than Headrace.
minilake: .venv-minilake/.installed

.venv-minilake/.installed: tests/standins/minilake/constraints.txt | install
	$(PYTHON) -m venv --clear .venv-minilake
	.venv-minilake/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps -r $<
	@touch $@

# Style, types and what the tests need, side by side.
before-tests:
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target lint system-packages snowflake-standin minilake

# Three parts side by side, as a quarter of the time is waiting; each has servers of its own, the tests of a file stay together.
test: before-tests
	$(PY) -m pytest -q -n 3 --dist loadfile -m "not slow and not live"

test-all: before-tests
	$(PY) -m pytest -q -n 2 --dist loadfile -m "not live"

bench: install
	$(PY) -m bench.postgres_full $(BENCH)

constraints:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet -o constraints.txt
	uv pip compile tests/standins/snowflake/requirements.in --universal --python-version 3.11 --upgrade --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet -o tests/standins/snowflake/constraints.txt
	uv pip compile tests/standins/minilake/requirements.in --universal --python-version 3.11 --upgrade --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet -o tests/standins/minilake/constraints.txt

clean:
	rm -rf $(VENV) .venv-bench .venv-fakesnow .venv-minilake .demo .pytest_cache .ruff_cache headrace.egg-info
