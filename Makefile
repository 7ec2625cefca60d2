# Needs make and Python 3.11 or newer; everything else goes into .venv. ARGS="..." is passed on to the command.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
PINNED := pyproject.toml constraints.txt
VENV := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")' \
	&& $(PYTHON) -m venv .venv

.DEFAULT_GOAL := help
.PHONY: help install check test demo docs pages clean

help:  ## this list
	@grep -hE '^[a-zA-Z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-zA-Z%-]+):.*## /\1\t/' | expand -t 12

install: .venv/.dev  ## the package, its extras and the developers' tools into .venv

check: .venv/.dev  ## ruff, its formatter and mypy; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The real data sets that stand beside a checkout, where the environment names no others.
test bench-%: export PREFLOOP_DATA_ROOT ?= $(abspath $(wildcard ../shared/data))

test: .venv/.dev  ## all tests; what cannot run here is skipped and listed at the end
	$(BIN)/pytest $(ARGS)

demo: .venv/.package  ## one full round in the tiny world, then the page to join it
	$(BIN)/prefloop demo $(ARGS)

bench-%: .venv/.dev  ## a side-by-side measurement, benchmarks/bench_%.py
	$(BIN)/python benchmarks/bench_$*.py $(ARGS)

docs: .venv/.dev  ## docs/settings.md from the settings classes
	$(BIN)/python docs/write_settings.py

pages: .venv/.dev  ## the screenshots in docs/pages, taken by a test
	PREFLOOP_SCREENSHOTS=1 $(BIN)/pytest -q tests/web/test_looks.py

clean:  ## takes away .venv and what the tools remember
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.package: $(PINNED)
	$(VENV)
	$(BIN)/pip install -c constraints.txt -e .
	touch $@

.venv/.dev: $(PINNED)
	$(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch .venv/.package $@
