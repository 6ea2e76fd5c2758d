# Everything runs in .venv, which `make setup` makes; nothing else is needed than Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
QUANTIZATION := torchao==0.18.0 bitsandbytes==0.50.2
WANDB := wandb==0.31.0

# Tests, checks and the demo never look for a network; packages come from `make setup` alone.
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup format check test test-quantization test-wandb demo serve bench real-data benchmark-examples million-pairs test-container constraints clean

help:  ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: $(READY)  ## Make .venv with the service, the client, the benchmark and the tools

$(READY): pyproject.toml constraints.txt
	@echo "== setting up $(VENV): a few minutes and about 2 GB the first time"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "RewardServe needs Python 3.11 or later: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# torch first and alone, so that no other package can pull another build of it.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,benchmark,dev]'
	@touch $@

format: setup  ## Format the code, write README's tables
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python scripts/settings_table.py
	$(BIN)/python scripts/speed_table.py

check: setup  ## Lint, types, import contracts, Kubernetes manifests
	@echo "== lint"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@echo "== types"
	$(BIN)/mypy
	@echo "== import contracts"
	$(BIN)/lint-imports
	@echo "== Kubernetes manifests"
	$(BIN)/python scripts/check_k8s.py

test: check  ## Checks, then all tests
	@echo "== tests"
	@# Two at a time; apart, because workers that have run both would need more than 5 GiB.
	$(BIN)/pytest -n 2 --dist loadfile tests/benchmark tests/client
	$(BIN)/pytest -n 2 --dist loadfile tests/service tests/test_*.py

test-quantization: setup  ## Tests of --quantization, with torchao and bitsandbytes beside .venv
	@# Not in it: they are imported wherever they are found, and write to stderr when they are.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .quantization $(QUANTIZATION)
	PYTHONPATH=.quantization $(BIN)/pytest tests/service/test_quantization.py

test-wandb: setup  ## Tests of export --wandb-run, with wandb beside .venv
	@# Not in it: it is large, and only those who log there have it.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade --target .wandb $(WANDB)
	PYTHONPATH=.wandb $(BIN)/pytest tests/benchmark/test_wandb_upload.py

demo: setup  ## Serve a debug model, benchmark it on the bundled sample, show the table: make demo DPO=1
	$(BIN)/python scripts/demo.py $(if $(DPO),--dpo)

serve: setup  ## Serve a model: make serve MODEL_ID=owner/name
	HF_HUB_OFFLINE=0 $(BIN)/reward-service --model-id $(or $(MODEL_ID),debug)

bench: setup  ## Measure speed against what people run today, 25 to 30 minutes: make bench BENCH=--quick
	$(BIN)/python -m speed $(BENCH)

real-data: setup  ## All of ../shared/data through debug models: run, kill, compare, best of 16, report (20 minutes)
	$(BIN)/python scripts/real_data.py

benchmark-examples: setup  ## Run every command of docs/benchmark.md, write what it printed into the page
	$(BIN)/python scripts/benchmark_examples.py

million-pairs: setup  ## Stream a million synthetic pairs through reward-benchmark, print its peak memory
	$(BIN)/python scripts/million_pairs.py

test-container: setup  ## Build the image, run it under a Docker engine, score over its port
	scripts/test_container.sh

constraints: setup  ## Write constraints.txt from what is installed
	$(BIN)/python scripts/write_constraints.py

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .quantization .wandb runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
