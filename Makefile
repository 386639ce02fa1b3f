# The two commands: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FOVEA_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fovea
export PATH := $(abspath $(BIN)):$(FOVEA_CACHE)/bin:$(PATH)

.PHONY: help install venv demo generate check-generated helm lint test test-unit test-kubernetes test-controlplane test-cluster test-slow test-page conformance fuzz mutants tools lock clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

install:  ## What this machine lacks: Debian packages (as root) and Go
	devcluster/install

venv: $(VENV)/installed  ## The virtual environment, from the hash-pinned requirements

$(VENV)/installed: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo:  ## From labelled images to a detector that looks after itself, on a real Kubernetes where one can be had (CLUSTER=…|local)
	$(PYTHON) examples/demo.py

generate: venv helm  ## Writes CRDs, the API reference, the architectures, alerts and dashboards, the chart's rights and the docs' tables
	$(BIN)/python crds/generate.py
	$(BIN)/python -m fovea_trainer.models.catalogue
	$(BIN)/python operator/generate.py
	$(BIN)/python -m monitoring.generate
	$(BIN)/python charts/document.py

check-generated: venv helm
	$(BIN)/python crds/generate.py --check
	$(BIN)/python -m fovea_trainer.models.catalogue --check
	$(BIN)/python operator/generate.py --check
	$(BIN)/python -m monitoring.generate --check
	$(BIN)/python charts/document.py --check

helm:
	@command -v helm > /dev/null || devcluster/devcluster build helm

lint: check-generated  ## ruff, mypy, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

TESTS := lint test-unit test-kubernetes

test: install  ## Everything, fast tests first, with the seconds of each stage
	@for stage in $(TESTS); do \
	  start=$$(date +%s); $(MAKE) --no-print-directory $$stage || exit 1; \
	  echo "$$stage: $$(($$(date +%s) - start)) s"; \
	done

test-unit: venv tools  ## Without a cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile tests/unit  # two threads of a small network wait for each other on a busy machine

test-kubernetes: venv tools  ## The next two at once: one mostly waits, the other mostly trains on one core
	@log=$$(mktemp); \
	$(MAKE) --no-print-directory test-controlplane > $$log 2>&1 & beside=$$!; \
	trap 'kill $$beside 2> /dev/null; rm -f $$log' EXIT; \
	$(MAKE) --no-print-directory test-cluster; status=$$?; \
	if wait $$beside; then tail -n 1 $$log; else status=1; cat $$log; fi; \
	exit $$status

test-controlplane: venv tools  ## Against a real API server, which the devcluster brings up
	devcluster/devcluster up --control-plane
	$(BIN)/python -m pytest --durations=15 tests/controlplane

test-cluster: venv tools  ## On a real cluster: the demo, faults, the README's commands; half an hour, as root
	$(BIN)/python -m pytest -s --durations=0 --durations-min=5 tests/cluster

test-slow: venv  ## Sweeps with real trainings; on the cluster of test-cluster a long sweep, rollouts, the other examples, queues, a lack of memory; an hour
	dpkg --status dataset-fashion-mnist >/dev/null || apt-get install --yes --quiet dataset-fashion-mnist
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/unit
	$(BIN)/python -m pytest -s -m slow tests/cluster

test-page: venv  ## The pages of fovea serve and of edge packages in a real browser, which this installs (Debian's Chromium)
	command -v chromium >/dev/null || apt-get install --yes --quiet --no-install-recommends chromium
	$(BIN)/python -m pytest -q tests/unit/serving/test_service.py tests/unit/serving/test_edge.py

conformance: venv  ## Every architecture trained, pruned, quantized and measured on real images, into docs/models.md; perhaps an hour (NAMES="yolo unet")
	$(BIN)/python benchmarks/conformance.py $(NAMES)

fuzz: venv  ## Readers and decoders on thousands of inputs that nobody would write; ten minutes
	FOVEA_FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest -q tests/unit/data/formats/test_fuzz.py

mutants: venv  ## Which changes of what is decided and calculated the unit tests notice; half an hour (AREA=training for a part)
	$(BIN)/python tests/mutants.py $(AREA)

tools:  ## The programs that tests start: a real S3 server, a registry, Helm, Triton, Prometheus and Node.js (Debian packages, as root)
	@command -v promtool >/dev/null || apt-get install --yes --quiet --no-install-recommends prometheus
	@command -v npm >/dev/null || apt-get install --yes --quiet --no-install-recommends npm
	mkdir -p $(FOVEA_CACHE)/edge && cp serving/fovea_serving/edge/package.json $(FOVEA_CACHE)/edge
	npm install --silent --no-audit --no-fund --prefix $(FOVEA_CACHE)/edge || echo "npm failed: the tests of the edge package's page are skipped"
	devcluster/devcluster build versitygw helm registry
	devcluster/images/triton/install $(FOVEA_CACHE)/triton

lock:  ## Renews requirements/*.txt
	for extra in dev operator serving ray-serve trainer; do \
	  $(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra $$extra --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links --no-annotate -o requirements/$$extra.txt \
	    $$([ $$extra = dev ] || echo -c requirements/dev.txt) || exit 1; done
	sed 's/ .*//; /^--/d; /^ /d; /^$$/d' requirements/tflite-converter.txt | $(BIN)/uv pip compile --quiet - --no-deps --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --no-annotate -o requirements/tflite-converter.txt

clean:  ## Removes the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
