# Everything a developer or a first visitor runs. Nothing is installed outside this directory.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PACKAGE_FILES := setup.cfg pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test lint format coverage bench bench-full bench-soak bench-scaling bench-peers clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo-installed  ## a gateway, a node that switches between two tiny models, an answer from each
	@$(BIN)/rolemesh demo

# The first run is under python -O, and without the fast lane.
test: lint  ## every check: ruff, mypy --strict, and the tests, most of them in both lanes
	PYTHONOPTIMIZE=1 ROLE_MESH_TEST_OVERRIDES=tests/lane_off \
	  $(BIN)/python -m pytest -q -x --ignore tests/real --ignore tests/mesh --ignore tests/benchmarks \
	  --ignore-glob 'tests/node/test_live_*'
	$(BIN)/python -m pytest

lint: $(VENV)/.test-installed  ## ruff (rules, security rules, format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test-installed  ## let ruff mend what it can, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.test-installed  ## the tests, and which lines they do not reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

BENCH_OUT ?= build/benchmarks
BENCH_SAID = $(strip make $@ $(if $(filter docs,$(BENCH_OUT)),BENCH_OUT=docs))
# What the long runs have left there is put into the page.
BENCH_SECTIONS = $(foreach name,streams soak scaling,$(wildcard $(BENCH_OUT)/$(name).md))
BENCH = $(BIN)/python -m benchmarks --out $(BENCH_OUT) --command '$(BENCH_SAID)' \
  $(addprefix --section ,$(BENCH_SECTIONS))
bench: $(VENV)/.bench-installed  ## what a request and an event cost, beside nginx and HAProxy (two minutes)
	@$(BENCH)

bench-full: $(VENV)/.bench-installed  ## every gateway that is installed, all the work (5 rounds of 13 minutes each)
	@$(BENCH) --full

bench-soak: $(VENV)/.bench-installed  ## 2,000 streams for ten minutes, then half an hour of mixed and rude traffic
	@$(BIN)/python -m benchmarks.soak --streams 2000 --minutes 10 --out $(BENCH_OUT)
	@$(BIN)/python -m benchmarks.soak --out $(BENCH_OUT)

bench-scaling: $(VENV)/.bench-installed  ## what 1,000 aliases and 500 nodes cost beside one of each
	@$(BIN)/python -m benchmarks.scaling --out $(BENCH_OUT)

# A peer that cannot be installed is named and left out; with STRICT=1 that is a failure.
bench-peers: $(VENV)/.bench-installed  ## install the gateways to compare with, below build/peers (1.1 GB)
	@$(BIN)/python -m benchmarks.peers $(if $(STRICT),--strict)

clean:  ## remove what the targets above made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	rm -rf rolemesh.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "RoleMesh needs Python 3.11 or later; say which with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No virtual environment could be made (Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.demo-installed: $(PACKAGE_FILES) | $(BIN)/python
	@echo "Installing RoleMesh and llama.cpp (about 100 MB) into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[llama]'
	@touch $@

$(VENV)/.test-installed: $(PACKAGE_FILES) | $(BIN)/python
	@echo "Installing RoleMesh, llama.cpp (about 100 MB) and the test tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[llama,test]'
	@touch $@ $(VENV)/.demo-installed

$(VENV)/.bench-installed: $(PACKAGE_FILES) | $(BIN)/python
	@echo "Installing RoleMesh into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@
