# Every command of this project. `make help` lists them from the `##` comments.
# A colon in a target's name is written `\:` and called as it reads: `make smoke:realtime`.

PYTHON ?= python3
# Empty means the API that `make run` started here.
BASE   ?=
# Test processes: half as many again as there are cores, since most tests wait for something.
PROCESSES ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores > 3 ? 6 : cores + cores / 2)))
VENV   := .venv
BIN    := $(VENV)/bin
# Touched last, so a build that was interrupted is done again.
STAMP  := $(VENV)/installed
# The same with what tests, lint and benchmarks need besides; `make run` does without, and is up sooner.
DEV    := $(VENV)/installed-dev

.DEFAULT_GOAL := help
SHELL := /bin/bash
# Recipes run one after the other even under -j: two of them at once would fight over .venv and ports.
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:  ## List the targets
	@sed -nE 's/^([a-z\\:-]+): .*## (.*)$$/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | tr -d '\\' \
	  | while IFS='|' read -r name text; do printf '  make %-22s %s\n' "$$name" "$$text"; done

run: $(STAMP)  ## Start everything: PostgreSQL, Redis, api, worker, beat, dashboard (PORT, DASHBOARD_PORT, DATA_DIR)
	@exec $(BIN)/python -m ottoai dev

demo: $(STAMP)  ## With `make run` up: send a missed call and watch what follows
	@exec $(BIN)/python -m scripts.demo

test: $(DEV)  ## Run all tests on servers of their own (ARGS="-k name" to choose, PROCESSES)
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile $(ARGS)

lint: $(DEV)  ## Check style, types, imports and SQL
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/sqlfluff lint --disable-progress-bar sql

bench: $(DEV)  ## Measure against the goals (WHAT=name for one, growth for how cost grows, --publish into the docs)
	$(BIN)/python -m scripts.bench $(WHAT)

chaos: $(DEV)  ## Kill, suspend and cut off everything for half an hour (CHAOS_SEED repeats a run)
	CHAOS=long $(BIN)/python -m pytest -s tests/chaos --timeout 4000

soak: $(DEV)  ## An hour of mixed load on a whole deployment, with leaks looked for (SOAK_MINUTES, SOAK_RATE)
	SOAK=long $(BIN)/python -m pytest -s tests/soak/test_soak.py

month: $(DEV)  ## Play a month of 200 tenants' missed calls and check every text (MONTH_SEED repeats a run)
	MONTH=long $(BIN)/python -m pytest -s tests/month --timeout 4000

autobahn: $(DEV)  ## All cases of Autobahn's WebSocket suite; needs a Python 2.7 (PYTHON27=path)
	OTTO_AUTOBAHN=all $(BIN)/python -m pytest -s tests/conformance/test_autobahn.py

smoke\:realtime: $(STAMP)  ## Check WebSocket and events of the service at BASE (TOKEN, DEV_KEY)
	@BASE='$(BASE)' PATH="$(CURDIR)/$(BIN):$$PATH" scripts/smoke_realtime.sh

smoke\:foundations: $(STAMP)  ## Check health, errors, webhooks and metrics of the service at BASE (TOKEN, DEV_KEY)
	@BASE='$(BASE)' PATH="$(CURDIR)/$(BIN):$$PATH" scripts/smoke_foundations.sh

metrics\:snapshot: $(STAMP)  ## Print the figures of the service at BASE beside their healthy values
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/metrics_snapshot.sh $(BASE)

verify\:foundations: $(DEV)  ## Tests, lint, and whether every generated file is current; needs no server
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/verify_foundations.sh

ops\:daily: $(STAMP)  ## Each morning: indicators, components, workers of the service at BASE
	@BASE='$(BASE)' PATH="$(CURDIR)/$(BIN):$$PATH" scripts/operations.sh daily

ops\:weekly: $(DEV)  ## Each week: both smoke tests of the service at BASE, and verify:foundations (TOKEN, DEV_KEY)
	@BASE='$(BASE)' PATH="$(CURDIR)/$(BIN):$$PATH" scripts/operations.sh weekly

ops\:monthly: $(STAMP)  ## Each month: what retention left, the month's alerts, sizes (DATABASE_URL)
	@BASE='$(BASE)' PATH="$(CURDIR)/$(BIN):$$PATH" scripts/operations.sh monthly

screenshots: $(DEV)  ## Take the pictures of README anew (docs/images); needs Chromium
	@$(BIN)/python -m scripts.screenshots

lock: $(STAMP)  ## Write requirements*.lock anew from requirements*.in (ARGS=--upgrade for newer releases)
	for name in requirements requirements-run requirements-dev requirements-build requirements-audit; do \
	  $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header $(ARGS) \
	    $$name.in -o $$name.lock || exit 1; \
	done

audit: $(STAMP)  ## Known vulnerabilities of the locked packages, as PyPI tells them; fails if one cannot be asked about
	@tool=$$(mktemp -d) && trap 'rm -rf "$$tool"' EXIT && $(PYTHON) -m venv "$$tool" \
	  && "$$tool/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
	       -r requirements-audit.lock \
	  && "$$tool/bin/pip-audit" --strict --disable-pip --require-hashes --progress-spinner off \
	       $(foreach name,requirements requirements-run requirements-dev requirements-build requirements-audit,-r $(name).lock)

clean:  ## Remove what can be made again: .venv and caches (the data in .data stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The environment, from the locks alone. uv takes half of pip's time, but reads no pip.conf: a machine that gets its
# packages from an index of its own is served by pip, as is one where uv fails.
define install
@{ ! $(BIN)/python -m pip config list | grep -qE '\.(index-url|no-index)=' \
  && VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --system-certs --require-hashes --no-build-isolation \
       --compile-bytecode $(1); } \
  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation $(1)
@touch $@
endef

$(STAMP): requirements.lock requirements-run.lock requirements-build.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: $(PYTHON) is not there." \
	  "Install it (Debian, Ubuntu: apt-get install python3 python3-venv) or say PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed;" \
	  "$(PYTHON) is $$($(PYTHON) -V). Say PYTHON=python3.12, for instance." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) comes without venv." \
	  "Install it first (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Making $(VENV) from the locks (once; a minute with an empty package cache)"
	@[ ! -L $(VENV) ] || rm $(VENV)  # a link leads to somebody else's
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-build.lock
	$(call install,-r requirements.lock -r requirements-run.lock)

$(DEV): $(STAMP) requirements-dev.lock
	@echo "Adding what tests and lint need, from requirements-dev.lock"
	$(call install,-r requirements-dev.lock)

.PHONY: help run demo test lint audit bench screenshots chaos soak month autobahn smoke\:realtime smoke\:foundations metrics\:snapshot verify\:foundations ops\:daily ops\:weekly ops\:monthly lock clean
