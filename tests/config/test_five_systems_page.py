"""Every module, name and test in docs/five-systems.md exists, and every test in docs/reliability.md."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "five-systems.md").read_text(encoding="utf-8")


@cache
def defined(path: Path) -> set[str]:
    """The top-level functions and classes of a file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {item.name for item in body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


def test_every_code_location_exists() -> None:
    places = set(re.findall(r"`([\w/]+\.py):(\w+)`", PAGE))
    assert len(places) > 60
    missing = {
        f"{path}:{name}"
        for path, name in places
        if name not in defined(ROOT / path if path.startswith("workbench/") else ROOT / "llm" / path)
    }
    assert not missing


def test_every_test_exists() -> None:
    """`::name` is a test of the previous file in the row."""
    missing, count = [], 0
    for row in PAGE.splitlines():
        path = ""
        for file, name in re.findall(r"`([\w/]*(?:\.py)?)::(\w+)`", row):
            path, count = file or path, count + 1
            if not path or name not in defined(ROOT / "tests" / path):
                missing.append(f"{path}::{name}")
    assert count > 150
    assert not missing


def test_every_test_of_the_reliability_page_exists() -> None:
    missing, count = [], 0
    for row in RELIABILITY.splitlines():
        path = ""
        for file, name in re.findall(r"`(tests/[\w/]+\.py|(?=::))(?:::(\w+))?", row):
            path, count = file or path, count + 1
            if not (ROOT / path).is_file() or (name and name not in defined(ROOT / path)):
                missing.append(f"{path}::{name}")
    assert count > 60
    assert not missing


def test_every_preset_exists() -> None:
    assert all((ROOT / name).is_file() for name in re.findall(r"`(presets/[a-z0-9-]+\.toml)`", PAGE))
