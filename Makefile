# The only entry points. `ROOST_*` variables reach Roost, as `ROOST_PORT=9000 make run` or `make run ROOST_PORT=9000`. Each target first brings `.venv` to what the locks in requirements/ say.
PYTHON ?= python3
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
JS := clients/js
OIDC := tests/support/oidc
# The Node that `make node` has put into .venv, or the machine's.
WITH_NODE := PATH="$(abspath $(BIN)):$$PATH"
HAS_NODE := $(WITH_NODE) sh -c "command -v npm && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'" >/dev/null 2>&1
NPM := $(WITH_NODE) npm --silent --prefix

.DEFAULT_GOAL := help
.PHONY: help run demo test test-long check format audit bench lock clean node oidc js-check js-test js-format
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.run ## serve on an embedded PostgreSQL (ROOST_PORT=8080, ROOST_DATA=data)
	@exec $(BIN)/roost serve

demo: $(VENV)/.run ## a page with two devices of one person: offline edits, conflicts, convergence
	@exec $(BIN)/roost demo

test: $(VENV)/.dev ## every test but the long forms
	@$(MAKE) js-test oidc
	@$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-long: $(VENV)/.dev ## the long forms: more kills, more examples, more time
	@$(BIN)/python -m pytest -n 2 -m slow $(ARGS)

check: $(VENV)/.dev ## format, lint, types, walls between rooms, house rules
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted: run 'make format'."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python -m pytest -q tests/unit/test_tidy.py
	@$(MAKE) js-check

format: $(VENV)/.dev ## rewrite the code as `make check` wants it
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .
	@$(MAKE) js-format

node: $(VENV)/.node ## Node and npm in .venv, for clients/js on a machine that has none

# The TypeScript client's own part of check, test and format. It takes Node 20 and npm, and is left out where they are not.
js-check js-test js-format: js-%: $(VENV)/.made
	@if $(HAS_NODE); then \
		$(MAKE) --silent $(JS)/node_modules/.made && $(NPM) $(JS) run $*; \
	else \
		echo "Skipped the $* of $(JS): that takes Node 20 or newer and npm ('make node' gets them)."; \
	fi

# The OpenID provider that tests log in at.
oidc: $(VENV)/.made
	@if $(HAS_NODE); then \
		$(MAKE) --silent $(OIDC)/node_modules/.made; \
	else \
		echo "Skipped the tests with $(OIDC): that takes Node 20 or newer and npm ('make node' gets them)."; \
	fi

audit: $(VENV)/.audit ## look for known weaknesses in the dependencies (ARGS=--required: fail where none can be looked up)
	@$(VENV)/audit/bin/python .ci/audit.py requirements/run.lock requirements/dev.lock $(ARGS)

bench: $(VENV)/.bench ## Roost beside pgbench on the same PostgreSQL, and live: tables and plots (needs wrk; ARGS=live)
	@exec $(BIN)/python -m bench $(ARGS)

lock: ## pin the newest allowed versions again (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: pip install uv"; exit 1; }
	@set -e; lock() { $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links "$$@"; }; \
	roost="pyproject.toml --group build"; \
	unset PIP_FIND_LINKS UV_FIND_LINKS; \
	lock $$roost -o requirements/run.lock; \
	lock $$roost -o requirements/dev.lock --group dev -c requirements/run.lock; \
	lock $$roost -o requirements/bench.lock --group bench -c requirements/dev.lock -c requirements/run.lock; \
	lock -o requirements/audit.lock --group pyproject.toml:audit; \
	lock -o requirements/node.lock --group pyproject.toml:node

clean: ## remove what was built (never the data directory)
	rm -rf $(VENV) $(JS)/node_modules $(JS)/dist $(OIDC)/node_modules build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results

# A stamp stands for a finished step, so a second call is instant and a broken one is taken up again.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "Roost needs Python 3.11 or newer, and '$(PYTHON)' is not here: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Roost needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V): make PYTHON=/path/to/python3.11"; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) >$(VENV).log 2>&1 \
		|| { rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed (on Debian: apt install python3-venv):"; cat $(VENV).log; rm -f $(VENV).log; exit 1; }
	@rm -f $(VENV).log
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements/run.lock pyproject.toml
	@echo "Setting up $(VENV) …"
	@$(PIP) install --require-hashes -r requirements/run.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.lock
	@echo "Adding what tests and checks need …"
	@$(PIP) install --require-hashes -r requirements/dev.lock
	@touch $@

$(VENV)/.node: $(VENV)/.made requirements/node.lock
	@echo "Adding Node …"
	@$(PIP) install --require-hashes -r requirements/node.lock
	@touch $@

%/node_modules/.made: %/package-lock.json
	@echo "Setting up $* …"
	@$(NPM) $* ci
	@touch $@

# In an environment of its own: it is to judge the others, not to be mixed with them.
$(VENV)/.audit: $(VENV)/.made requirements/audit.lock
	@echo "Setting up pip-audit …"
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/audit.lock
	@touch $@

$(VENV)/.bench: $(VENV)/.run requirements/bench.lock
	@echo "Adding what the bench needs …"
	@$(PIP) install --require-hashes -r requirements/bench.lock
	@touch $@
