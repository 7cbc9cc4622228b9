"""A few real steps before committing, and what is remembered of them."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from llm.events import Progress
from tests.conftest import tiny_config
from workbench.services.preflight import (
    Measurement,
    PreflightJob,
    expected_speed,
    key_of,
    machine_name,
    measurements,
    remember,
)


class Heard:
    """What a job reported."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.result: Measurement | None = None
        self.problem = ""
        self.begun, self.ended = threading.Event(), threading.Event()

    def note(self, progress: Progress) -> None:
        self.progress.append(progress)
        self.begun.set()

    def end(self, result: Measurement | None, problem: str) -> None:
        self.result, self.problem = result, problem
        self.ended.set()


def measured(name: str, key: str, machine: str = "", flops: float = 1e9) -> Measurement:
    return Measurement(machine or machine_name(), key, name, "cpu", "fp32", 1, 0.1, 100.0, flops, 10, 20)


def test_real_steps_are_measured_in_a_process_of_their_own(home: Path, corpus: Path) -> None:
    heard, config = Heard(), tiny_config(corpus)
    PreflightJob(config, "tiny", home, heard.note, heard.end)
    assert heard.ended.wait(120), "it did not end"
    assert heard.problem == ""
    found = heard.result
    assert found is not None
    assert (found.name, found.device, found.precision, found.threads) == ("tiny", "cpu", "fp32", 1)
    tokens = 4 * 32
    assert abs(found.tokens_per_second * found.step_seconds - tokens) < 1e-6
    assert found.peak_bytes > found.training_bytes > 0
    assert heard.progress[-1].stage == "Measuring steps"
    assert not (home / "runs").exists() or not any((home / "runs").iterdir())


def test_it_can_be_cancelled_at_once(home: Path, corpus: Path) -> None:
    heard = Heard()
    job = PreflightJob(tiny_config(corpus), "tiny", home, heard.note, heard.end)
    job.cancel()
    assert heard.ended.wait(20), "it did not end"
    assert (heard.result, heard.problem) == (None, "cancelled")


def test_what_a_person_can_mend_is_said(home: Path, corpus: Path) -> None:
    config = tiny_config(corpus)
    config = replace(config, data=replace(config.data, corpus=str(home / "nothing.txt")))
    heard = Heard()
    PreflightJob(config, "tiny", home, heard.note, heard.end)
    assert heard.ended.wait(120), "it did not end"
    assert "nothing.txt" in heard.problem
    assert heard.result is None


def test_measurements_are_remembered_per_machine_and_replaced(home: Path, corpus: Path) -> None:
    config = tiny_config(corpus)
    assert expected_speed(home, config) is None
    remember(home, measured("elsewhere", key_of(config), machine="another machine", flops=9e9))
    assert expected_speed(home, config) is None
    remember(home, measured("other", "0" * 16, flops=2e9))
    speed = expected_speed(home, config)
    assert speed is not None
    assert (speed.flops_per_second, speed.name, speed.exact) == (2e9, "other", False)
    for flops in (3e9, 4e9):
        remember(home, measured("tiny", key_of(config), flops=flops))
    speed = expected_speed(home, replace(config, train=replace(config.train, steps=9999)))
    assert speed is not None
    assert (speed.flops_per_second, speed.exact) == (4e9, True)
    assert len(measurements(home)) == 3


def test_damaged_measurements_are_no_measurements(home: Path) -> None:
    for text in ("", "{", "[]", '{"format": 1, "measured": [{"name": 3}]}', '{"format": 99, "measured": []}'):
        (home / "measured.json").write_text(text, encoding="utf-8")
        assert measurements(home) == []
