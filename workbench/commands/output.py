"""Output of the commands: results to stdout, messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from llm.events import finite
from llm.files import is_utf8
from workbench.text import clean, one_line


def say(message: str) -> None:
    """Print a message to stderr. Errors of writing are ignored: they must not end the command."""
    with suppress(OSError, ValueError):  # a full disk, a closed pipe, a stream that is closed
        print(clean(message), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a result as strict JSON; non-finite numbers become strings, bytes of paths that are not UTF-8
    escapes."""
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, indent=2)
    print(text if is_utf8(text) else json.dumps(finite(value), allow_nan=False, indent=2), flush=True)


def for_stdout(text: str) -> str:
    """`text` as it is printed: cleaned for a terminal, unchanged for a pipe or a file."""
    return clean(text) if sys.stdout.isatty() else text


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print left-aligned columns."""
    from rich.cells import cell_len

    lines = [list(headings), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def number_text(value: float | None) -> str:
    """`value` with four decimals, or a dash for None."""
    return "–" if value is None else f"{value:.4f}"
