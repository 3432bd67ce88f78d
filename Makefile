# `make demo` and `make test` each stand alone on a fresh clone: Python 3.11 or newer and make are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test quick deployment docker lint format clean

help: ## Show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed ## Make .venv and install fedmoap with its development tools

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on --editable '.[dev]'
	touch $@

demo: install ## Compare pFedMoAP with zero-shot, local CoOp and PromptFL on the demo federation
	$(BIN)/fedmoap compare demo --out runs/demo

test: install ## Run the tests; simulations included, deployments not
	$(BIN)/python -m pytest

quick: install ## Run the tests that start few processes
	$(BIN)/python -m pytest -m 'not slow and not deployment and not docker'

deployment: install ## Run the tests of real federations over gRPC: some ten minutes
	$(BIN)/python -m pytest -m deployment

docker: install ## Build the image and run the federation of deploy/compose.yaml; as root, on Debian
	$(BIN)/python -m pytest -m docker

lint: install ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove the environment, caches and runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
