# Everything a newcomer or CI runs; each target makes the environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench soak fuzz docs clean help
.DEFAULT_GOAL := help

help:  ## Say what each target does
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/base: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Discreet needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/test: $(VENV)/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

demo: $(VENV)/base  ## Train one model over five simulated hospitals, and write a report
	$(BIN)/discreet demo --out demo-report --force

lint: $(VENV)/test  ## Style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## Everything CI runs
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

bench: $(VENV)/test  ## Measure gradients, noise, secure aggregation, accuracy, accounting and a deployment, and write docs/benchmarks/
	$(BIN)/python benchmarks/gradients.py --out docs/benchmarks/gradients.md
	$(BIN)/python benchmarks/noise.py --out docs/benchmarks/noise.md
	$(BIN)/python benchmarks/masks.py --out docs/benchmarks/masks.md
	$(BIN)/python benchmarks/secure_aggregation.py --out docs/benchmarks/secure_aggregation.md
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/accounting.py
	$(BIN)/python benchmarks/deployment.py --out docs/benchmarks/deployment.md

soak: $(VENV)/test  ## Kill sites, simulations and deployments, cut power, cheat in 30,000 ways: half an hour
	$(BIN)/python benchmarks/soak.py --out docs/benchmarks/soak.md
	$(BIN)/python benchmarks/deployment_soak.py --out docs/benchmarks/deployment_soak.md
	PYTHONPATH=tests/support $(BIN)/python -m learnable_sums --strategies 30000

fuzz: $(VENV)/test  ## Feed 100,000 mutated inputs to every reader, and write docs/benchmarks/fuzz.md: two minutes
	PYTHONPATH=tests/support $(BIN)/python -m fuzzing --cases 100000 --out docs/benchmarks/fuzz.md

docs: $(VENV)/test  ## Check that the documents' commands and links are real
	$(BIN)/python -m pytest tests/test_documents.py

clean:  ## Remove the environment and what tools left behind
	rm -rf $(VENV) demo-report demo-report.partial fuzz-failures build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
