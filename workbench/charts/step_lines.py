"""Read logged steps, nearly all lines of a long log, as rows of numbers, without an event for each.

A line is read here if it is exactly what `llm.events.to_line` writes for a `StepLogged` with finite numbers. Other
lines are read by `llm.run.log.parse_event`, which gives the same values but takes longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from llm.events import StepLogged

BEGINNING = b'{"type": "StepLogged"'
INTEGER = rb"-?(?:0|[1-9]\d{0,17}+)"
NUMBER = INTEGER + rb"(?:\.\d++)?+(?:e[-+]\d++)?+"  # as `repr` writes a float
FORMS = {"int": INTEGER, "float": NUMBER, "float | None": rb"(?:null|" + NUMBER + rb")"}
NAMES = tuple(item.name for item in fields(StepLogged))
LINE = BEGINNING + b"".join(rb', "%s": ' % item.name.encode() + FORMS[str(item.type)] for item in fields(StepLogged))
STRETCH = re.compile(rb"(?:" + LINE + rb"\}\n)*+")

KEPT = b"0123456789.+-E,\n"
"""The characters of a line that are kept: its numbers, the commas before them and its end."""
DROPPED = bytes(sign for sign in range(256) if sign not in KEPT)
LONG_BYTES = 1 << 19  # of a stretch: shorter ones are parsed without importing pyarrow


@dataclass(frozen=True)
class Part:
    """Consecutive lines of a log: `steps` logged steps, or other lines if that is 0."""

    text: bytes
    steps: int


def stretches(text: bytes) -> Iterator[Part]:
    """Split complete lines into stretches of logged steps and other lines, in order."""
    start = 0
    while start < len(text):
        match = STRETCH.match(text, start)
        end = match.end() if match else start
        steps = text.count(b"\n", start, end)
        if not steps:
            following = text.find(b"\n" + BEGINNING, start)
            end = following + 1 if following >= 0 else len(text)
        yield Part(text[start:end], steps)
        start = end


def read_rows(stretch: bytes, columns: Sequence[str]) -> NDArray[np.float64]:
    """The numbers of a stretch, shape (lines, columns); null is NaN."""
    signs = np.frombuffer(bytearray(stretch), np.uint8)
    before = np.flatnonzero((signs == ord("-")) | (signs == ord("+"))) - 1
    signs[before[signs[before] == ord("e")]] = ord("E")  # exponents, unlike the letters of names
    table = signs.tobytes().translate(None, DROPPED)
    if len(stretch) >= LONG_BYTES:
        return parse_with_pyarrow(table, columns)
    return parse_with_numpy(table, columns)


def parse_with_pyarrow(table: bytes, columns: Sequence[str]) -> NDArray[np.float64]:
    """Parse lines of ",number,number…": 7 times as fast as numpy (23 MB of log, pyarrow 26.0)."""
    from pyarrow import BufferReader, csv, float64

    parsed = csv.read_csv(
        BufferReader(table),
        read_options=csv.ReadOptions(column_names=["", *NAMES]),
        convert_options=csv.ConvertOptions(include_columns=list(columns), column_types=dict.fromkeys(NAMES, float64())),
    )
    return np.stack([parsed[name].to_numpy() for name in columns], axis=1)


def parse_with_numpy(table: bytes, columns: Sequence[str]) -> NDArray[np.float64]:
    """Parse lines of ",number,number…"; pyarrow takes longer to import than this does for a short stretch."""
    numbers = table.replace(b"\n", b"").replace(b",,", b",nan,")
    if numbers.endswith(b","):
        numbers += b"nan"
    values = np.fromstring(numbers[1:], np.float64, table.count(b"\n") * len(NAMES), sep=",")
    rows: NDArray[np.float64] = values.reshape(-1, len(NAMES))[:, [NAMES.index(name) for name in columns]]
    return rows
