# Everything a change must pass. The tools come with the `dev` extra: pip install -e '.[dev]'
VENV ?= .venv
BIN := $(VENV)/bin/

.PHONY: check lint format types floors test

check: lint test

lint: ## format, lint, types, import rules; changes nothing
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)mypy
	$(BIN)lint-imports

format: ## put the code into its format
	$(BIN)ruff format .
	$(BIN)ruff check --fix .

test:
	$(BIN)python -m pytest
