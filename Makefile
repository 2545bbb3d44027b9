# Everything here works in a fresh clone on a machine that has Python 3.11 and make.
# `make serve` and `make test` set up what they need; the rest follows from them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
DEMO := build/demo/requests/digits.json
NAME ?= ladder
ARGS ?=

.PHONY: serve test check fix bench bench-gpu loadtest chaos hostile docs clean
.DEFAULT_GOAL := test

serve: $(DEMO)  ## Serve the demo's models on Ray Serve; Ctrl-C ends it.
	@$(BIN)/turnout serve --config configs/demo.toml $(ARGS)

test: $(READY)  ## Run the tests: all but those that need a GPU or minutes of breakage.
	@$(BIN)/python -m pytest -m "not gpu and not chaos" $(ARGS)

check: $(READY)  ## What CI runs: style, types, import contracts, then the tests.
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports > build/contracts.log || { cat build/contracts.log; exit 1; }
	@$(MAKE) --no-print-directory test

fix: $(READY)  ## Repair what can be repaired without thinking.
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

bench: $(READY) $(DEMO)  ## Run a benchmark, NAME=ladder by default; its rows go to build/bench/NAME.json.
	@mkdir -p build/bench
	@$(BIN)/python -m loadtests.$(NAME) $(ARGS)

bench-gpu: $(READY)  ## Is the GPU what limits its models? With a simulated one where there is none.
	@$(BIN)/python -m loadtests.gpubench $(ARGS)

loadtest: $(READY) $(DEMO)  ## Ask a gateway while its traffic changes, and say yes or no; UI=1: in a browser.
	@$(BIN)/python -m loadtests.loadtest $(if $(UI),--ui) $(ARGS)

chaos: $(READY)  ## Break one thing after another under load; ends with 1 if a promise is not kept.
	@$(BIN)/python -m loadtests.chaos $(ARGS)

hostile: $(READY)  ## Attack a gateway beside good clients; ends with 1 if they notice, or memory grows.
	@$(BIN)/python -m loadtests.hostile $(ARGS)

docs: $(READY)  ## Hold the documentation against the code.
	@$(BIN)/python -m pytest -q tests/test_house.py

clean:  ## Remove what was built: the demo and its state, benchmarks, logs. The environment stays.
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# One stamp for the whole environment, inside of it: made again when the lock or pyproject changes.
# The checkout itself is installed without its dependencies (they are the lock's) and without build
# isolation (setuptools is in the lock), so that no index is asked for what no hash vouches for.
$(READY): requirements/dev.lock pyproject.toml
	@mkdir -p build
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Turnout needs Python 3.11; say make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'setting up .venv from requirements/dev.lock (minutes the first time; log: build/setup.log)'
	@{ $(PYTHON) -m venv .venv && \
	   $(BIN)/python -m pip install --require-hashes --no-deps -r requirements/dev.lock && \
	   $(BIN)/python -m pip install --no-deps --no-build-isolation -e . && \
	   $(BIN)/python -m compileall -q serving kernels router; } > build/setup.log 2>&1 || \
	    { grep -v '^WARNING: Location' build/setup.log | tail -n 60 >&2; exit 1; }
	@touch $@

# Made again when what it consists of changes; what is there already is kept.
$(DEMO): serving/demo.py | $(READY)
	@$(BIN)/turnout demo --into build/demo
