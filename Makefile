# Everything on a machine that has Python 3.11 or newer, and make:
#   make demo        installs into .venv, runs the main job on real tissue, writes out/demo
#   make test        installs into .venv, runs all tests
#   make quick       the tests that need no Ray and take little time
#   make coverage    the lines that the quick tests run, in htmlcov/
#   make campaign    the fault campaign: jobs killed at SEEDS=50 moments, and all other
#                    faults; benchmarks at a small size
#   make lint        formatting, lint, types, import contracts
#   make bench-page  how long the explorer's page takes: open, pan, select
#   make docs        the documentation as HTML, in docs/_build
# PYTHON=python3.12 picks another interpreter, VENV=folder another place, OUT=folder
# another place for the demo's results, PYTEST="tests/model -x" what pytest gets.

PYTHON ?= python3
VENV := .venv
OUT := out/demo
PYTEST :=
SEEDS := 50
# Two processes, each with the tests of whole files; those with long tests come first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
TSC := npm exec --yes --package=typescript@5.9.3 -- tsc
QUICK := "not ray and not cluster and not slow and not campaign"

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test quick coverage campaign lint bench-page docs clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -12

demo: $(DEMO_STAMP)
	$(BIN)/python jobs/atlas.py --demo --out $(OUT)

test: $(DEV_STAMP)
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST)

quick: $(DEV_STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m $(QUICK) $(PYTEST)

coverage: $(DEV_STAMP)
	$(BIN)/python -m pytest -m $(QUICK) --cov --cov-report=html $(PYTEST)

campaign: $(DEV_STAMP)
	RAYLATENT_CAMPAIGN_SEEDS=$(SEEDS) $(BIN)/python -m pytest tests/faults \
	  tests/benchmarks -m "campaign or not campaign" $(PYTEST)

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(TSC) --version >/dev/null 2>&1 || { \
	  echo "the types of the page are not checked: npm does not give typescript here" >&2; \
	  test -z "$$CI"; }
	@! $(TSC) --version >/dev/null 2>&1 || $(TSC) -p tests/browser/tsconfig.json

bench-page: $(DEV_STAMP)
	$(BIN)/python tests/benchmarks/bench_page.py

docs: $(DEV_STAMP)
	$(BIN)/python docs/verbs.py
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build

clean:
	rm -rf $(VENV) docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# pip is the last thing that venv puts there: a folder with it is a whole one.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "raylatent needs Python 3.11 or newer, and '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo missing): run make PYTHON=python3.11 ..." >&2; \
	  exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed (on Debian: apt install python3-venv)" >&2; \
	  exit 1; }

$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing raylatent with its demo (torch and ray are large: some minutes)"
	$(INSTALL) -e '.[demo]'
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing raylatent with what its tests need (torch and ray are large: some minutes)"
	$(INSTALL) -e '.[demo,dev]'
	@touch $@ $(DEMO_STAMP)
