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
TYPE = b'{"type": '
PADDING = b"\n" * (len(TYPE) + 8)  # so that places shortly after the beginning of a line exist
EVERY_SECOND = 0b01010101  # bits of a byte, the lowest one first
COLON, NEWLINE, MINUS, ZERO, DOT, SMALL_E = b":\n-0.e"
LOWER = 0x20  # the bit that makes a letter small


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
        signs = self._signs[: len(text)]
        self._stops = np.flatnonzero((signs == COLON) | (signs == NEWLINE))
        newlines = np.flatnonzero(signs[self._stops] == NEWLINE)
        self._ends = self._stops[newlines]
        self._starts = np.append(0, self._ends[:-1] + 1)
        self._first_colon = np.append(0, newlines[:-1] + 1)
        self._colon_count = newlines - self._first_colon
        words: NDArray[np.uint64] = np.ndarray((len(self._text) - 7,), np.uint64, self._text, strides=(1,))
        self._kinds = words[self._starts + len(TYPE)]
        cut = np.flatnonzero((signs[:-1] == DOT) & ((signs[1:] | LOWER) == SMALL_E))
        self._has_cut = np.searchsorted(cut, self._starts) < np.searchsorted(cut, self._ends)
        """Lines that may hold a number as "1.e5", which pyarrow takes though JSON does not."""

    def start(self, place: int) -> int:
        """Where a line begins."""
        return int(self._starts[place])

    def text(self, place: int) -> bytes:
        """A line, without its newline."""
        return self._text[self._starts[place] : self._ends[place]]

    def rows(self, kind: type[Event], fields: Sequence[Field]) -> tuple[Array, Booleans]:
        """The `fields` of the lines of this kind that have one of its common forms, shape (rows, fields), and which
        lines these are, shape (lines,)."""
        is_known = np.zeros(len(self._starts), np.bool_)
        tables, places = [np.empty((len(fields), 0))], [np.empty(0, np.int64)]
        begin = np.frombuffer(b'"%s", ' % kind.__name__.encode(), np.uint64, 1)
        left = np.flatnonzero(self._kinds == begin)
        for _ in range(MAX_FORMS):
            if not len(left):
                break
            form = form_of(self.text(left[0]), kind)
            if form is not None:
                known, begins, ends = self._fit(form, left)
                if fields:
                    known, numbers = self._numbers(form, known, begins, ends)
                    tables.append(values_of(form, numbers, fields))
                    places.append(known)
                is_known[known] = True
            left = left[1:][~is_known[left[1:]]]
        table = np.concatenate(tables, axis=1)
        if len(tables) > 2:  # several forms: in the order of the lines
            table = table[:, np.argsort(np.concatenate(places))]
        return table.T, is_known

    def _has(self, piece: bytes, places: Integers) -> Booleans:
        """Whether `piece` stands at each of these places."""
        windows: NDArray[np.void] = np.ndarray(
            (len(self._text) - len(piece) + 1,), f"V{len(piece)}", self._text, strides=(1,)
        )
        found = windows[places]
        if found.tobytes() == piece * len(places):  # nearly always; 14 times as fast as comparing one by one
            return np.ones(len(places), np.bool_)
        one_by_one: Booleans = found == np.void(piece)
        return one_by_one

    def _fit(self, form: Form, lines: Integers) -> tuple[Integers, Integers, Integers]:
        """Those of `lines` that have this form, and where each of their numbers begins and ends: shape (numbers,
        lines). What stands there may be anything that has no colon and begins and ends as a number does."""
        lines = lines[(self._colon_count[lines] == form.colons) & ~self._has_cut[lines]]
        begins = self._stops[self._first_colon[lines] + np.array(form.places, np.int64)[:, None]] + 2
        pieces = begins - np.array([len(piece) for piece in form.before])[:, None]
        ends = np.concatenate((pieces[1:], self._ends[lines][None] - len(form.end)))
        widths = ends - begins
        fits = (pieces[0] == self._starts[lines]) & ((widths > 0) & (widths <= MAX_WIDTH)).all(axis=0)
        lines, begins, ends = keep(fits, lines, begins, ends)
        fits = self._has(form.end, ends[-1]) & self._has(form.before[0], self._starts[lines])
        for place, piece in enumerate(form.before[1:]):
            fits &= self._has(piece, ends[place])
        fits &= self._look_like_numbers(begins, ends)
        lines, begins, ends = keep(fits, lines, begins, ends)
        return lines, begins, ends

    def _look_like_numbers(self, begins: Integers, ends: Integers) -> Booleans:
        """For which lines all texts begin and end as JSON numbers do. pyarrow, which parses them, also takes "01" and
        "nan"."""
        first = begins + (self._signs[begins] == MINUS)
        sign, following = self._signs[first], self._signs[first + 1]
        begins_well = (sign != ZERO) | (ends - first == 1) | (following == DOT) | ((following | LOWER) == SMALL_E)
        ends_well = is_digit(self._signs[ends - 1]) & (first < ends)
        look_well: Booleans = (begins_well & ends_well & is_digit(sign)).all(axis=0)
        return look_well

    def _numbers(self, form: Form, lines: Integers, begins: Integers, ends: Integers) -> tuple[Integers, Array]:
        """Those of `lines` whose numbers are valid, and these: shape (numbers, lines)."""
        import pyarrow

        is_integer = np.array([(*field, "int") in FIELD_KINDS[type(form.event)] for field in form.fields])
        numbers = np.empty(begins.shape)
        try:
            for of_kind, kind in ((is_integer, pyarrow.int64()), (~is_integer, pyarrow.float64())):
                texts = self._slices(begins[of_kind], ends[of_kind])
                parsed = np.frombuffer(texts.cast(kind).buffers()[1], kind.to_pandas_dtype(), len(texts))
                numbers[of_kind] = parsed[::2].reshape(len(lines), -1).T
        except pyarrow.ArrowInvalid:
            return lines[:0], numbers[:, :0]
        times = numbers[form.fields.index(("time",))]
        lines, numbers = keep((times >= 0) & (times < LATEST), lines, numbers)
        return lines, numbers

    def _slices(self, begins: Integers, ends: Integers) -> Any:
        """Pieces of the text, shape (pieces of a line, lines), line by line as every second string of an array of
        pyarrow; nothing is copied.

        The offsets make every gap between two pieces a string as well, which is marked as null.
        """
        from pyarrow import StringArray, py_buffer

        offsets = np.full(2 * begins.size + 1, len(self._text), np.int32)
        borders = offsets[:-1].reshape(begins.shape[1], len(begins), 2)
        borders[..., 0], borders[..., 1] = begins.T, ends.T
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


def keep(fits: Booleans, *arrays: Any) -> Any:
    """The arrays, of which only those places on the last axis are kept that fit."""
    return arrays if fits.all() else tuple(array[..., fits] for array in arrays)


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def is_digit(signs: NDArray[np.uint8]) -> Booleans:
    return signs - ZERO < 10  # unsigned: smaller characters become large numbers
