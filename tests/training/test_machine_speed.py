"""The speed of a machine: the best of several real steps, and what it would be without other programs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llm.config import with_overrides
from llm.training import machine_speed
from llm.training.batch_plan import resolve_batch_plan
from llm.training.machine_speed import measure_machine
from tests.conftest import tiny_config


def test_real_steps_are_measured_and_the_threads_stay(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_speed, "MEASURED_SECONDS", 0.02)
    before = torch.get_num_threads()
    speed = measure_machine(with_overrides(tiny_config(corpus), [("optim.kind", "muon")]))
    assert 1e5 < speed.measured <= speed.unhindered
    assert torch.get_num_threads() == before


def test_another_busy_program_does_not_lower_the_unhindered_speed(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps take 4, 1 and 3 s by the wall clock, and 0.5 s of one processor each; the first is a warm-up."""
    config, wall, cpu = tiny_config(corpus), iter([9.0, 4.0, 1.0, 3.0]), processor_seconds()
    monkeypatch.setattr(machine_speed, "MEASURED_SECONDS", 8.0)
    monkeypatch.setattr(machine_speed, "time_step", lambda *arguments: next(wall))
    monkeypatch.setattr("time.process_time", lambda: next(cpu))
    monkeypatch.setattr(machine_speed, "cpu_quota", lambda: None)
    plan = resolve_batch_plan(config, 257, 1)
    flops = plan.flops_per_token * plan.tokens_per_step
    speed = measure_machine(config)  # on one thread
    assert speed.measured == pytest.approx(flops / 1.0) and speed.unhindered == pytest.approx(flops / 0.5)

    wall = iter([9.0, 4.0, 1.0, 3.0])
    monkeypatch.setattr(machine_speed, "cpu_quota", lambda: 0.25)
    throttled = measure_machine(config)
    assert throttled.unhindered == throttled.measured, "a quota is no moment"


def processor_seconds() -> Iterator[float]:
    for step in itertools.count():
        yield from (2.0 * step, 2.0 * step + 0.5)
