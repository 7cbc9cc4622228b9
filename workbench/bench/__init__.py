"""Measurements behind the numbers in README.md and docs/performance.md; each is one `llm-workbench bench` command."""
