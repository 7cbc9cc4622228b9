"""The fast reader of logged steps gives exactly what the general one gives."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.config import RunConfig
from llm.events import Evaluated, Event, Progress, RolledBack, Started, StepLogged, to_line
from llm.run import Run
from llm.run.log import parse_event
from workbench.charts import curves as curves_module
from workbench.charts import step_lines
from workbench.charts.curves import STEP_COLUMNS, RunCurves
from workbench.charts.step_lines import read_rows, stretches

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


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=5))
def test_numbers_are_those_of_the_general_reader(lines: list[bytes]) -> None:
    """Bit for bit, for every finite number that `to_line` can write; the others are left to the general reader."""
    read = 0
    for part in stretches(b"".join(lines)):
        if not part.steps:
            assert b'"NaN"' in part.text or b'Infinity"' in part.text
            read += part.text.count(b"\n")
            continue
        events = [parse_event(line) for line in part.text.splitlines()]
        expected = [[np.nan if (v := getattr(e, name)) is None else v for name in STEP_COLUMNS] for e in events]
        for long_bytes in (0, 1 << 40):  # with pyarrow, and with numpy
            with patch.object(step_lines, "LONG_BYTES", long_bytes):
                assert read_rows(part.text, STEP_COLUMNS).tobytes() == np.array(expected, np.float64).tobytes()
        read += part.steps
    assert read == len(lines)


def log_of(choices: list[tuple[int, int, int]]) -> bytes:
    """A log from numbers: stretches of steps, other events among them, steps that fall back, lines that are damaged."""
    lines, step = [], 0
    for kind, length, place in choices:
        for offset in range(length):
            step += 1 if kind != 1 or offset else -place
            step = max(step, 0)
            lines.append(step_line(step, [1 / (step + 1), 3e-4, math.pi * step, 1e5, 1e15 * step, 0.1 * step], None))
        if kind == 2:
            lines.append(to_line(RolledBack(step=max(0, step - place), from_step=step, reason="a spike")))
        elif kind == 3:
            measured = Evaluated(step=step, validation_loss=2.5, perplexity=9.0, bits_per_byte=1.0, tokens=3)
            lines.append(to_line(measured))
        elif kind == 4 and lines:
            line = bytearray(lines[-1])
            line[place % (len(line) - 1)] = (place * 37) % 256
            lines[-1] = bytes(line)
        elif kind == 5 and lines:
            lines[-1] = lines[-1][: place % len(lines[-1])] + b"\n"
        elif kind == 6:
            lines.append(to_line(Progress(stage="Evaluating", done=1, total=2, step=step)))
        elif kind == 7 and lines:
            with suppress(ValueError):  # the line was damaged before
                record = json.loads(lines[-1])
                lines[-1] = json.dumps(record, separators=(",", ":"), sort_keys=bool(place % 2)).encode() + b"\n"
        elif kind == 8:
            lines.append(to_line(started(max(0, step - place))))
    return b"".join(lines)


def started(step: int) -> Started:
    return Started(
        step=step,
        total_steps=100,
        parameters=1,
        tokens_per_step=1,
        device="cpu",
        precision="fp32",
        threads=1,
        compiled=False,
        pid=1,
        host="here",
    )


CHOICES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30), st.integers(0, 400)), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHOICES, st.integers(200, 20_000))
def test_any_log_gives_the_same_curves(
    tmp_path_factory: pytest.TempPathFactory, choices: list[tuple[int, int, int]], limit: int
) -> None:
    """Whatever lies between the steps and however they are damaged, in pieces of any size."""
    run = Run.create(tmp_path_factory.mktemp("home"), "log", RunConfig())
    (run.path / "events.jsonl").write_bytes(log_of(choices))
    fast, general = RunCurves(run), RunCurves(run)
    while fast.unread_bytes:
        fast.poll(limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves_module, "LONG_STRETCH", 10**9)
        general.poll()
    for name in ("steps", "validation", "core"):
        np.testing.assert_array_equal(getattr(fast, name).array(), getattr(general, name).array())
    for name in ("marks", "started", "last_step", "last_evaluation", "finished", "progress", "recent", "step"):
        assert getattr(fast, name) == getattr(general, name), name


OTHER_FORMS = (b"01", b"+1", b".5", b"5.", b"1e5", b"1E5", b"", b"1.2.3", b"--1", b"1-2", b'"NaN"', b"nan", b"true")


@pytest.mark.parametrize("value", OTHER_FORMS)
def test_numbers_of_another_form_are_left_to_the_general_reader(value: bytes) -> None:
    line = step_line(7, [1.5, 1.0, 1.0, 1.0, 1.0, 1.0], 0.25)
    changed = line.replace(b'"loss": 1.5', b'"loss": ' + value)
    assert [part.steps for part in stretches(line + changed + line)] == [1, 0, 1]
    as_float = line.replace(b'"step": 7,', b'"step": 7.0,')
    assert [part.steps for part in stretches(as_float)] == [0], "a step is a whole number"
    assert parse_event(as_float.strip()) is None


def test_the_reader_knows_the_lines_that_are_written() -> None:
    """A field added to the event is added here, too: else every log would be read slowly."""
    event: Event = parse_event(step_line(1, [1.0] * 6, None).strip())  # type: ignore[assignment]
    assert [part.steps for part in stretches(to_line(event) * 3)] == [3]


def test_a_long_log_is_read_in_pieces(tmp_path: Path) -> None:
    """Of the text no more than a piece is held at a time."""
    run = Run.create(tmp_path, "long", RunConfig())
    lines = (step_line(step, [1.0, 1e-4, 2.0, 3.0, 4.0, 5.0], 0.5) for step in range(1, 20_001))
    (run.path / "events.jsonl").write_bytes(b"".join(lines))
    curves, pieces = RunCurves(run), []
    read = curves.lines.read

    def noting(limit: int = 1 << 30) -> bytes:
        pieces.append(len(text := read(limit)))
        return text

    curves.lines.read = noting  # type: ignore[method-assign]
    shares: list[float] = []
    curves.catch_up(lambda share: shares.append(share) is None)
    assert len(curves.steps) == 20_000
    assert max(pieces) <= curves_module.READ_BYTES + 1000
    assert shares == sorted(shares) and len(shares) > 3
