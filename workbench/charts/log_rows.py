"""Read the lines that make up nearly all of a long log as rows of numbers, without an event for each.

These are logged steps, metrics and measurements of ranks. Most lines of a kind differ only in their numbers, so one of
them is parsed (`form_of`) and the others are compared with it, all at once. Lines that differ in anything else are left
to `llm.run.log.parse_event`, which gives the same values but takes longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.events import FIELD_LAYOUTS, LATEST, Event, MetricsLogged, RanksMeasured, StepLogged, from_record
from llm.run.log import parse_record

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Array = NDArray[np.float64]
Field = tuple[str, ...]
"""The name of a field of an event, and a name in the table that it holds."""

NUMBER = re.compile(rb'"([^"]*)": (-?\d[\d.e+-]*)')  # with its name, in a line without backslashes
LONG_BYTES = 1 << 19  # of a text: for a shorter one it is not worth importing pyarrow
MAX_FORMS = 16  # of a kind in one text: numbers that are not finite are strings
MAX_WIDTH = 40  # characters of a number; `repr` writes at most 24 for a float
FIELD_KINDS = {
    kind: {(name, annotation) for name, annotation, _, _ in layout} for kind, layout in FIELD_LAYOUTS.items()
}
PADDING = b"\n" * 4  # so that places shortly after a line exist
EVERY_SECOND = 0b01010101  # bits of a byte, the lowest one first
COLON, NEWLINE, MINUS, ZERO, DOT, SMALL_E, LARGE_E = b":\n-0.eE"


@dataclass(frozen=True)
class Block:
    """Complete lines of a log: `head`, then from the first row on `text`.

    `steps` and `metrics` hold the numbers of logged steps and of metrics, shape (rows, fields). Lines `between` the
    rows and `after` the last one must be read one by one. Of the measurements of ranks, which are rows too, only the
    last one is of interest.
    """

    head: bytes
    text: bytes
    steps: Array
    metrics: Array
    has_ranks: bool
    between: list[bytes]
    after: list[bytes]


@dataclass(frozen=True)
class Form:
    """What lines of a kind have in common: everything but their numbers, whose `fields` are in order.

    `before` is the text before each number, which ends in a colon and a space, and `end` the text after the last one.
    `colons` counts the colons of a line, `places` those before each number.
    """

    event: Event
    fields: tuple[Field, ...]
    before: tuple[bytes, ...]
    end: bytes
    colons: int
    places: tuple[int, ...]


def read_block(text: bytes, step_fields: Sequence[Field], metric_fields: Sequence[Field]) -> Block | None:
    """The rows of complete lines, which hold these fields; None for a text that is too short to be worth it."""
    if len(text) < LONG_BYTES:
        return None
    lines = Lines(text)
    steps, is_step = lines.rows(StepLogged, step_fields)
    metrics, is_metrics = lines.rows(MetricsLogged, metric_fields)
    _, is_ranks = lines.rows(RanksMeasured, ())
    is_row = is_step | is_metrics | is_ranks
    if not is_row.any():
        return None
    rows = np.flatnonzero(is_row)
    others = np.flatnonzero(~is_row)
    others = others[others > rows[0]]
    last = int(np.searchsorted(others, rows[-1]))
    between, after = ([lines.text(place) for place in some.tolist()] for some in (others[:last], others[last:]))
    start = lines.start(int(rows[0]))
    return Block(text[:start], text[start:], steps, metrics, bool(is_ranks.any()), between, after)


class Lines:
    """The complete lines of a text, and where their colons are."""

    def __init__(self, text: bytes) -> None:
        self._text = text + PADDING
        self._signs = np.frombuffer(self._text, np.uint8)
        self._ends = np.flatnonzero(self._signs[: len(text)] == NEWLINE)
        self._starts = np.append(0, self._ends[:-1] + 1)
        self._colons = np.flatnonzero(self._signs == COLON)
        cut = np.flatnonzero((self._signs[:-1] == DOT) & ((self._signs[1:] == SMALL_E) | (self._signs[1:] == LARGE_E)))
        self._has_cut = np.searchsorted(cut, self._starts) < np.searchsorted(cut, self._ends)
        """Lines that may hold a number as "1.e5", which pyarrow takes though JSON does not."""
        self._first_colon = np.searchsorted(self._colons, self._starts)
        self._colon_count = np.diff(self._first_colon, append=len(self._colons))

    def start(self, place: int) -> int:
        """Where a line begins."""
        return int(self._starts[place])

    def text(self, place: int) -> bytes:
        """A line, without its newline."""
        return self._text[self._starts[place] : self._ends[place]]

    def rows(self, kind: type[Event], fields: Sequence[Field]) -> tuple[Array, Booleans]:
        """The `fields` of the lines of this kind that have one of its common forms, shape (rows, fields), and which
        lines these are, shape (lines,)."""
        table = np.empty((len(fields), len(self._starts)))  # by column, as the curves are kept
        is_known = np.zeros(len(self._starts), np.bool_)
        left = np.flatnonzero(self._has(b'{"type": "%s", ' % kind.__name__.encode(), self._starts))
        for _ in range(MAX_FORMS):
            if not len(left):
                break
            form = form_of(self.text(left[0]), kind)
            if form is not None:
                known, begins, ends = self._fit(form, left)
                if fields:
                    known, numbers = self._numbers(form, known, begins, ends)
                    table[:, known] = values_of(form, numbers, fields)
                is_known[known] = True
            left = left[1:][~is_known[left[1:]]]
        return table[:, is_known].T, is_known

    def _has(self, piece: bytes, places: Integers) -> Booleans:
        """Whether `piece` stands at each of these places, which may lie outside of the text."""
        count = len(self._text) - len(piece) + 1
        windows: NDArray[np.void] = np.ndarray((count,), f"V{len(piece)}", self._text, strides=(1,))
        found = windows[np.minimum(np.maximum(places, 0), count - 1)]
        if found.tobytes() == piece * len(places):  # nearly always; 14 times as fast as comparing one by one
            return (places >= 0) & (places < count)
        one_by_one: Booleans = (found == np.void(piece)) & (places >= 0) & (places < count)
        return one_by_one

    def _fit(self, form: Form, lines: Integers) -> tuple[Integers, Integers, Integers]:
        """Those of `lines` that have this form, and where each of their numbers begins and ends: shape (lines,
        numbers). What stands there may be anything that has no colon and begins and ends as a number does."""
        lines = lines[(self._colon_count[lines] == form.colons) & ~self._has_cut[lines]]
        begins = self._colons[self._first_colon[lines][:, None] + np.array(form.places, np.int64)] + 2
        pieces = begins - np.array([len(piece) for piece in form.before])
        ends = np.concatenate((pieces[:, 1:], (self._ends[lines] - len(form.end))[:, None]), axis=1)
        fits = (pieces[:, 0] == self._starts[lines]) & self._has(form.end, ends[:, -1])
        for place, piece in enumerate(form.before):
            fits &= self._has(piece, pieces[:, place])
        widths = ends - begins
        fits &= ((widths > 0) & (widths <= MAX_WIDTH)).all(axis=1)
        lines, begins, ends = lines[fits], begins[fits], ends[fits]
        fits = self._look_like_numbers(begins, ends).all(axis=1)
        return lines[fits], begins[fits], ends[fits]

    def _look_like_numbers(self, begins: Integers, ends: Integers) -> Booleans:
        """Whether texts begin and end as JSON numbers do. pyarrow, which parses them, also takes "01" and "nan"."""
        is_negative = self._signs[begins] == MINUS
        first = begins + is_negative
        ends_well = is_digit(self._signs[ends - 1]) & (first < ends)
        begins_well = (self._signs[first] != ZERO) | (ends - first == 1)
        following = self._signs[first + 1]
        begins_well |= (following == DOT) | (following == SMALL_E) | (following == LARGE_E)
        look_well: Booleans = ends_well & begins_well & is_digit(self._signs[first])
        return look_well

    def _numbers(self, form: Form, lines: Integers, begins: Integers, ends: Integers) -> tuple[Integers, Array]:
        """Those of `lines` whose numbers are valid, and these: shape (numbers, lines)."""
        import pyarrow

        is_integer = np.array([(*field, "int") in FIELD_KINDS[type(form.event)] for field in form.fields])
        numbers = np.empty(begins.shape[::-1])
        try:
            for of_kind, kind in ((is_integer, pyarrow.int64()), (~is_integer, pyarrow.float64())):
                texts = self._slices(begins[:, of_kind], ends[:, of_kind])
                parsed = np.frombuffer(texts.cast(kind).buffers()[1], kind.to_pandas_dtype(), len(texts))
                numbers[of_kind] = parsed[::2].reshape(len(lines), -1).T
        except pyarrow.ArrowInvalid:
            return lines[:0], numbers[:, :0]
        times = numbers[form.fields.index(("time",))]
        is_valid = (times >= 0) & (times < LATEST)
        return lines[is_valid], numbers[:, is_valid]

    def _slices(self, begins: Integers, ends: Integers) -> Any:
        """Pieces of the text in ascending order, as every second string of an array of pyarrow; nothing is copied.

        The offsets make every gap between two pieces a string as well, which is marked as null.
        """
        from pyarrow import StringArray, py_buffer

        offsets = np.append(np.stack((begins, ends), axis=2).astype(np.int32), np.int32(len(self._text)))
        is_piece = np.full(len(offsets) // 8 + 1, EVERY_SECOND, np.uint8)
        buffers = (py_buffer(values) for values in (offsets, self._text, is_piece))
        return StringArray.from_buffers(len(offsets) - 1, *buffers)


def form_of(line: bytes, kind: type[Event]) -> Form | None:
    """The form of a line without its newline; None where it is not an event of this kind as this program writes it."""
    record = parse_record(line)
    event = from_record(record) if record is not None and b"\\" not in line else None
    if record is None or event is None or json.dumps(record, ensure_ascii=False).encode() != line:
        return None
    if type(event) is not kind or (isinstance(event, MetricsLogged) and event.is_validation):
        return None
    known = number_fields(record, kind)
    found = list(NUMBER.finditer(line))
    names = [number[1].decode() for number in found]
    if names != [field[-1] for field in known] or len(set(known)) != len(known) or ("time",) not in known:
        return None
    borders = [0, *(number.end() for number in found)]
    begins = [number.start(2) for number in found]
    before = tuple(line[end:begin] for end, begin in zip(borders, begins, strict=False))
    places = tuple(line.count(b":", 0, begin) - 1 for begin in begins)
    return Form(event, tuple(known), before, line[borders[-1] :], line.count(b":"), places)


def number_fields(record: dict[str, Any], kind: type[Event]) -> list[Field]:
    """The fields of a parsed line that hold numbers, in order, also in those tables that are fields of this kind."""
    found: list[Field] = []
    for key, value in record.items():
        if is_number(value):
            found.append((key,))
        elif isinstance(value, dict) and (key, "dict[str, float]") in FIELD_KINDS[kind]:
            found += [(key, name) for name, number in value.items() if is_number(number)]
    return found


def values_of(form: Form, numbers: Array, fields: Sequence[Field]) -> Array:
    """The `fields` of lines of a form, shape (fields, lines): their `numbers`, shape (numbers, lines), else what all of
    them have in common; NaN for what is absent."""
    table = np.empty((len(fields), numbers.shape[1]))
    for place, field in enumerate(fields):
        if field in form.fields:
            table[place] = numbers[form.fields.index(field)]
        else:
            value = getattr(form.event, field[0])
            value = value.get(field[1]) if len(field) > 1 else value
            table[place] = np.nan if value is None else value
    return table


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def is_digit(signs: NDArray[np.uint8]) -> Booleans:
    return signs - ZERO < 10  # unsigned: smaller characters become large numbers
