# Vireo's tasks. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
OIP := .vireo/oip-env
DESCRIPTORS := protos/gen/vireo/descriptors.binpb

.PHONY: help setup demo test bench bench-peers h2load chaos lint breaking protos protos-baseline oip-env clean
help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.done ## Make .venv with the vireo command and every tool it needs
$(VENV)/.done: pyproject.toml constraints.txt hatch_build.py $(wildcard protos/*.py protos/vireo/v1/*.proto protos/inference/*.proto)
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or name one that is: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[stack,training,dev]'
	@touch $@

demo: setup ## Train on real data, publish, serve, show a slate (ONCE=1: then stop)
	$(BIN)/vireo demo $(if $(ONCE),--once)

# Each of these runs a dozen processes: two of them at once would leave no core for either.
STACKS := tests/acceptance tests/bench tests/server/stack tests/clients/python/test_wheel.py

test: setup ## Run every test: two files at a time, then those of whole stacks
	$(BIN)/pytest -n 2 --dist loadfile $(STACKS:%=--ignore=%)
	$(BIN)/pytest $(STACKS)

bench: setup h2load bench-peers ## Measure speed, over the models alone and beside peers (JSON=1: a line a row)
	$(BIN)/vireo bench all $(if $(JSON),--json) $(if $(REPORT),--report $(REPORT))

# The load generator: it takes a hundredth of the processor time that the servers do.
h2load: ## Install h2load, where it is missing (Debian's nghttp2-client)
	@command -v h2load >/dev/null || { apt-get update -qq && apt-get install -y -qq nghttp2-client; }

PEERS := mlserver kserve bentoml litserve
bench-peers: $(PEERS:%=.vireo/peers/%/.done) ## Make .vireo/peers with the servers to compare with, an environment each
.vireo/peers/%/.done: bench/peers/%.txt
	test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

chaos: setup ## Kill, hang, cut off and overload a stack under load (JSON=1: a line a case)
	$(BIN)/vireo bench chaos $(if $(JSON),--json)

lint: setup breaking ## Style, strict types, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf lint $(DESCRIPTORS) --path vireo/v1 --path inference

breaking: setup ## Stop a change of the protos that callers of the API as it was can't take
	$(BIN)/buf breaking $(DESCRIPTORS) --against protos/baseline.json

protos: setup ## Make the stubs again
	$(BIN)/python -m protos.generate

protos-baseline: protos ## Take in what the API has that is new (BREAKING=1: and what is incompatible)
	$(if $(BREAKING),,$(BIN)/buf breaking $(DESCRIPTORS) --against protos/baseline.json)
	$(BIN)/python -m protos.baseline

oip-env: $(OIP)/.done ## Make .vireo/oip-env with Triton's client, for its tests
$(OIP)/.done: tests/server/inference/tritonclient.txt
	test -x $(OIP)/bin/pip || $(PYTHON) -m venv $(OIP)
	$(OIP)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

clean: ## Remove the environment, stubs, caches and all run-time state
	rm -rf $(VENV) .vireo protos/gen clients/python/vireo_client/_generated .mypy_cache .ruff_cache .pytest_cache
