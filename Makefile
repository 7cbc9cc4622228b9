# All checks of a change. The tools come with the `dev` extra: pip install -e '.[dev]'
VENV ?= .venv
BIN := $(VENV)/bin/

.PHONY: check lint format test slow fuzz soak gpu

check: lint test

lint: ## format, lint, types, import rules; changes nothing
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)mypy
	$(BIN)lint-imports

format: ## format the code
	$(BIN)ruff format .
	$(BIN)ruff check --fix .

test:
	$(BIN)python -m pytest

slow: ## tests that take minutes or gigabytes
	$(BIN)python -m pytest -m slow

fuzz: ## 10,000 damaged copies of every kind of file
	$(BIN)python -m pytest -m fuzz

soak: ## half an hour of random use
	$(BIN)python -m pytest -m soak -n 0 -s

gpu: ## tests that need an NVIDIA GPU, then the benchmarks on it, into gpu.json; NANOGPT=DIR compares with a checkout of it
	$(BIN)python -m pytest -m cuda -n 0
	set -e; { \
	printf '{"train": '; \
	$(BIN)llm-workbench bench train --device cuda --shapes char,6x384,gpt2-124m $(if $(NANOGPT),--nanogpt $(NANOGPT)) --json; \
	printf ', "decode": '; $(BIN)llm-workbench bench decode --device cuda --json; printf '}\n'; } > gpu.json.part; \
	mv gpu.json.part gpu.json
