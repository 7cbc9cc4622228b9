"""Lines that are read as rows give exactly what reading them one by one gives."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.config import RunConfig
from llm.events import (
    Evaluated,
    MetricsLogged,
    Progress,
    RanksMeasured,
    RolledBack,
    StepLogged,
    to_line,
)
from llm.run import Run
from llm.run.log import parse_event
from tests.workbench.runs_for_tests import started
from workbench.charts import log_rows
from workbench.charts.curves import METRIC_FIELDS, READ_BYTES, STEP_FIELDS, RunCurves
from workbench.charts.log_rows import Block, read_block

FLOATS = st.one_of(
    st.floats(),
    st.integers(-(10**17), 10**17),
    st.sampled_from([0.0, -0.0, 5e-324, 1.7976931348623157e308, 1e16, 1e-5, 0.1, 123456789.123456789]),
)


def step_line(step: int, numbers: list[float], mfu: float | None) -> bytes:
    loss, lr, norm, speed, flops, elapsed = numbers
    return to_line(
        StepLogged(
            time=1.7e9,
            elapsed=elapsed,
            step=step,
            tokens_seen=step * 2048,
            loss=loss,
            lr=lr,
            lr_multiplier=0.5,
            grad_norm=norm,
            step_ms=50.25,
            tokens_per_second=speed,
            total_flops=flops,
            memory_bytes=step,
            mfu=mfu,
        )
    )


STEPS = st.builds(
    step_line, st.integers(0, 10**14), st.lists(FLOATS, min_size=6, max_size=6), st.one_of(st.none(), st.floats())
)
ALL = ("steps", "validation", "core", "metrics")
STATE = (
    "marks", "samples", "started", "last_step", "ranks", "finished", "progress", "paused",
    "settings", "recent", "step",
)  # fmt: skip


def block_of(text: bytes) -> Block:
    with patch.object(log_rows, "LONG_BYTES", 1):
        block = read_block(text, STEP_FIELDS, METRIC_FIELDS)
    assert block is not None
    return block


def curves_of(run: Run, limit: int, *, one_by_one: bool = False) -> RunCurves:
    """The curves of a run whose log is read in pieces of `limit` bytes."""
    curves = RunCurves(run)
    with patch.object(log_rows, "LONG_BYTES", 1 << 40 if one_by_one else 300):
        while curves.unread_bytes:
            curves.poll(limit)
    return curves


def check_same(run: Run, limit: int) -> None:
    """Both readers see the same."""
    fast, general = curves_of(run, limit), curves_of(run, 1 << 30, one_by_one=True)
    for name in ALL:
        np.testing.assert_array_equal(getattr(fast, name).array(), getattr(general, name).array(), name)
    for name in STATE:
        assert shown(getattr(fast, name)) == shown(getattr(general, name)), name


def shown(value: object) -> str:
    """As text, since NaN is not equal to itself, and without times, which are those of the reading where a line has
    none."""
    return re.sub(r"\btime=[\d.]+", "", repr(value))


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=4))
def test_numbers_are_those_of_the_general_reader(lines: list[bytes]) -> None:
    """Bit for bit, for every number that `to_line` can write."""
    for line in lines:
        event = parse_event(line.strip())
        expected = [np.nan if (value := getattr(event, name)) is None else value for (name,) in STEP_FIELDS]
        assert block_of(line * 3).steps.tobytes() == np.array([expected] * 3, np.float64).tobytes()


class Log:
    """A log from numbers: stretches of steps with metrics and ranks, other events among them, steps that fall back,
    lines that are damaged or written otherwise."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.step = 0

    def add(self, kind: int, length: int, place: int, extra: int) -> None:
        for offset in range(length):
            self.step = max(0, self.step + (1 if kind != 1 or offset else -place))
            self.add_step(place, extra)
        changes = (self.roll_back, self.evaluate, self.change_a_byte, self.cut, self.progress, self.rewrite, self.start)
        if kind >= 2:
            changes[kind - 2](place)

    def add_step(self, place: int, extra: int) -> None:
        step = self.step
        numbers = [1 / (step + 1), 3e-4, math.pi * step, 1e5, 1e15 * step, 0.1 * step]
        self.lines.append(step_line(step, numbers, None if place % 3 else 0.25))
        common: dict[str, Any] = {"time": 1.7e9, "elapsed": step / 7, "step": step}
        if extra & 1:
            metrics = {"reward": 1.5 * step, "margin": math.nan if step % 5 == 0 else -0.5}
            self.lines.append(to_line(MetricsLogged(**common, metrics=metrics, is_validation=step % 11 == 0)))
        if extra & 2:
            by_rank = {"0": 1.0 * step, "1": 2.5}
            self.lines.append(to_line(RanksMeasured(**common, compute_ms=by_rank, waiting_ms={}, memory_bytes=by_rank)))

    def roll_back(self, place: int) -> None:
        self.lines.append(to_line(RolledBack(step=max(0, self.step - place), from_step=self.step, reason="a spike")))

    def evaluate(self, place: int) -> None:
        self.lines.append(
            to_line(Evaluated(step=self.step, validation_loss=2.5, perplexity=9.0, bits_per_byte=1.0, tokens=3))
        )

    def change_a_byte(self, place: int) -> None:
        if self.lines:
            line = bytearray(self.lines[-1])
            line[place % max(1, len(line) - 1)] = (place * 37) % 256
            self.lines[-1] = bytes(line)

    def cut(self, place: int) -> None:
        if self.lines:
            self.lines[-1] = self.lines[-1][: place % len(self.lines[-1])] + b"\n"

    def progress(self, place: int) -> None:
        self.lines.append(to_line(Progress(stage="Evaluating", done=1, total=2, step=self.step)))

    def rewrite(self, place: int) -> None:
        """The last line as another program might write it."""
        with suppress(ValueError, IndexError):  # the line was damaged before
            record = json.loads(self.lines[-1])
            forms: tuple[dict[str, Any], ...] = ({"separators": (",", ":")}, {"sort_keys": True}, {})
            names = (("extra", [1, {"loss": 5}]), ("loss", place), ("elapsed", None), ("note", "\\u00e9: 5"))
            self.lines[-1] = json.dumps(record | dict([names[place % 4]]), **forms[place % 3]).encode() + b"\n"

    def start(self, place: int) -> None:
        self.lines.append(to_line(started(max(0, self.step - place), total_steps=100)))


CHOICES = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 30), st.integers(0, 400), st.integers(0, 3)), max_size=12
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHOICES, st.integers(200, 20_000))
def test_any_log_gives_the_same_curves(
    tmp_path_factory: pytest.TempPathFactory, choices: list[tuple[int, int, int, int]], limit: int
) -> None:
    """Whatever lies between the steps and however they are damaged, in pieces of any size."""
    run = Run.create(tmp_path_factory.mktemp("home"), "log", RunConfig())
    log = Log()
    for choice in choices:
        log.add(*choice)
    (run.path / "events.jsonl").write_bytes(b"".join(log.lines))
    check_same(run, limit)


VALUES = (
    b"01", b"-01", b"00", b"+1", b".5", b"-.5", b"5.", b"1.e5", b"1.E5", b"1e5", b"1E5", b"1e999", b"-0", b"0x1",
    b"0x11", b"", b"1.2.3", b"--1", b"-", b"1-2", b"1e", b"1 ", b" 1", b"1_0", b"9" * 19, b"9" * 39, b"9" * 120,
    b"0." + b"3" * 60, b'"NaN"', b'"Infinity"', b'"5"', b"nan", b"inf", b"NaN", b"true", b"null", b"[5]",
    b'{"loss": 5}', b"\x00", b"\xff5", b'5, "loss": 6', b'5, "type": "Started"', b'"a\\": 5, "', b"7.0",
)  # fmt: skip


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("time", "memory_bytes", "mfu", "is_validation")]


@pytest.mark.parametrize("name", ["step", "loss", "reward", "type", *OTHERS])
def test_a_value_of_any_form_is_read_as_by_the_general_reader(home: Path, name: str) -> None:
    """In one line among many of the usual form, or in all of them."""
    run = Run.create(home, "odd", RunConfig())
    log = Log()
    for _ in range(24):
        log.add(0, 1, 3, 3)
    kind = {"reward": 1, "is_validation": 1}.get(name, 0)
    for value in VALUES:
        field = b'"%s": ' % name.encode()
        changed = [re.sub(field + b"[^,}]+", lambda _: field + value, line) for line in log.lines]  # noqa: B023
        for lines in ([*log.lines[:-18], *changed[-18 + kind : -17 + kind], *log.lines[-15:]], changed):
            (run.path / "events.jsonl").write_bytes(b"".join(lines))
            check_same(run, 1 << 30)


def test_a_time_outside_the_calendar_is_no_step(home: Path) -> None:
    run = Run.create(home, "odd", RunConfig())
    line = step_line(7, [1.0] * 6, None).replace(b'"time": 1700000000.0', b'"time": -5.0')
    (run.path / "events.jsonl").write_bytes(line * 20)
    assert len(curves_of(run, 1 << 30).steps) == 0
    check_same(run, 1 << 30)


@pytest.mark.parametrize("extra", [0, 1, 2, 3])
def test_the_reader_knows_the_lines_that_are_written(extra: int) -> None:
    """All of them become rows, also where some numbers are not finite."""
    log = Log()
    for _ in range(100):
        log.add(0, 1, 3, extra)
    block = block_of(b"".join(log.lines))
    assert block.head == b""
    left = [line[:-1] for line in log.lines if b'"is_validation": true' in line]
    assert [*block.between, *block.after] == left


def test_a_rollback_between_many_steps_leaves_most_of_them_rows(home: Path) -> None:
    run = Run.create(home, "rolled-back", RunConfig())
    log = [step_line(step, [1.0] * 6, 0.5) for step in (*range(1, 400), *range(396, 800))]
    log.insert(399, to_line(RolledBack(time=1.7e9, step=395, from_step=399, reason="a spike")))
    (run.path / "events.jsonl").write_bytes(b"".join(log))
    curves = RunCurves(run)
    with patch.object(log_rows, "LONG_BYTES", 8 * len(log[0])):
        events = curves.poll()
    assert sum(isinstance(event, StepLogged) for event in events) < 40
    assert curves.steps["step"].tolist() == list(range(1, 800))
    check_same(run, 1 << 30)


def test_a_repeated_step_in_a_very_long_line(home: Path) -> None:
    run = Run.create(home, "long-line", RunConfig())
    lines = [step_line(step, [1.0] * 6, 0.5) for step in (1, 2, 2, 3)]
    lines[2] = lines[2].replace(b'{"type": "StepLogged"', b'{"type": "StepLogged", "note": "' + b"a" * 2000 + b'"')
    (run.path / "events.jsonl").write_bytes(b"".join(lines))
    check_same(run, 1 << 30)


def test_a_long_log_is_read_in_pieces(tmp_path: Path) -> None:
    """Of the text no more than a piece is held at a time."""
    run = Run.create(tmp_path, "long", RunConfig())
    lines = (step_line(step, [1.0, 1e-4, 2.0, 3.0, 4.0, 5.0], 0.5) for step in range(1, 40_001))
    (run.path / "events.jsonl").write_bytes(b"".join(lines))
    curves, pieces = RunCurves(run), []
    read = curves.lines.read

    def noting(limit: int = 1 << 30) -> bytes:
        pieces.append(len(text := read(limit)))
        return text

    curves.lines.read = noting  # type: ignore[method-assign]
    shares: list[float] = []

    def note_share(share: float) -> bool:
        shares.append(share)
        return True

    curves.catch_up(note_share)
    assert len(curves.steps) == 40_000
    assert max(pieces) <= READ_BYTES + 1000
    assert shares == sorted(shares) and len(shares) > 2
