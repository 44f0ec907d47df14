# `make` lists the targets. Each one builds .venv when it is missing or older than the dependencies, and reuses it else.
# On Linux without a GPU, spare yourself the CUDA download of the first build:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format types docs bench reproduce clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## build .venv with the tested versions of everything

demo: $(READY) ## fit a neural ODE to a century-old record of hares and lynxes; ends with its report (two minutes)
	$(BIN)/pathline run hare_lynx --seed 0

test: $(READY) ## the whole test suite on two cores (under ten minutes)
	$(BIN)/python -m pytest -n 2

lint: $(READY) ## format, lint, spelling and the import contracts, checked
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/lint-imports

format: $(READY) ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(READY) ## check the type annotations
	$(BIN)/basedpyright

docs: $(READY) ## build the site into docs/_build/html; a warning is an error, and no network is used
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(READY) $(VENV)/.peers ## time this library and its peers in one interleaved run (twenty minutes on a quiet machine)
	$(BIN)/python -m benchmarks

# torchode's requirements contradict the command's; what cannot be installed is skipped by name.
$(VENV)/.peers: constraints/peers.txt $(READY)
	-$(BIN)/python -m pip install -q --no-deps -r constraints/peers.txt
	@touch $@

reproduce: $(READY) ## train every experiment with three seeds and compare with the numbers they promise
	$(BIN)/pathline reproduce

clean: ## remove what a build leaves behind; .venv and runs/ stay
	rm -rf build dist docs/_build docs/reference/generated .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A system Python without ensurepip (Debian's, for one) can't make a venv; virtualenv can.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Pathline needs Python 3.11 or newer; "$(PYTHON)" is not. Say which: make PYTHON=python3.12 test' >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -c 'import virtualenv' 2>/dev/null; then $(PYTHON) -m virtualenv -q $(VENV); \
	else echo 'This Python can make no virtual environment. Install one of the two, then try again:' >&2; \
	  echo '    sudo apt-get install python3-venv    # or: $(PYTHON) -m pip install --user virtualenv' >&2; exit 1; fi

$(READY): pyproject.toml constraints/tested.txt constraints/files.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints/tested.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps -r constraints/files.txt
	@touch $@
