"""The learning rate against PyTorch's schedulers and the formulas of the documents."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config.schema import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from llm.optim import lr_at, momentum_at

PEAK, FLOOR, STEPS = 3e-3, 2e-4, 211


def rates(steps: int = STEPS, **schedule: Any) -> list[float]:
    schedule = {"lr_min": FLOOR} | schedule
    config = RunConfig(train=TrainConfig(lr=PEAK), schedule=ScheduleConfig(**schedule))
    return [lr_at(step, steps, config) for step in range(steps + 20)]


def torchs(scheduler: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = scheduler(optimizer)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_equals_torch() -> None:
    theirs = torchs(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=FLOOR))
    assert rates(kind="cosine")[:STEPS] == pytest.approx(theirs, rel=1e-9)


def test_linear_equals_torch() -> None:
    theirs = torchs(
        lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, FLOOR / PEAK, total_iters=STEPS)
    )
    assert rates(kind="linear")[:STEPS] == pytest.approx(theirs, rel=1e-9)


def test_sqrt_and_constant() -> None:
    theirs = torchs(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / math.sqrt(t + 1)))
    assert rates(kind="sqrt", lr_min=0.0)[:STEPS] == pytest.approx(theirs, rel=1e-12)
    assert rates(kind="sqrt", lr_min=0.0, warmup_from="first")[:STEPS] == pytest.approx(theirs, rel=1e-12)
    assert min(rates(kind="sqrt", lr_min=1e-3)) == 1e-3
    assert set(rates(kind="constant", decay_until=0.5)) == {PEAK}


def cs336(step: int, warmup: int, end: int) -> float:
    """The assignment's schedule, called with steps from 1."""
    if step < warmup:
        return PEAK * step / warmup
    if step <= end:
        progress = (step - warmup) / (end - warmup)
        return FLOOR + 0.5 * (1 + math.cos(math.pi * progress)) * (PEAK - FLOOR)
    return FLOOR


def test_schedules_of_the_assignment_and_the_lecture() -> None:
    assignment = rates(200, kind="cosine", warmup_steps=30, warmup_from="first")
    assert assignment == pytest.approx([cs336(t + 1, 30, 200) for t in range(220)], rel=1e-12)
    assert assignment[199] == FLOOR
    assert assignment[198] > FLOOR
    lecture = rates(200, kind="cosine", warmup_ratio=0.05, decay_until=0.9, warmup_from="first")
    assert lecture == pytest.approx([cs336(t + 1, 10, 180) for t in range(220)], rel=1e-12)


def test_schedule_of_nanochat() -> None:
    """Multiplier: (it+1)/warmup, then 1, then (n − it)/warmdown of the way down to the final fraction."""
    steps, warmup, down, final = 1000, 50, 200, FLOOR / PEAK
    expected = []
    for it in range(steps):
        if it < warmup:
            multiplier = (it + 1) / warmup
        elif it <= steps - down:
            multiplier = 1.0
        else:
            progress = (steps - it) / down
            multiplier = progress + (1 - progress) * final
        expected.append(PEAK * multiplier)
    found = rates(steps, kind="linear", warmup_steps=warmup, hold_until=0.8)
    assert found[:steps] == pytest.approx(expected, rel=1e-9)
    assert found[steps - 1] == pytest.approx(FLOOR + (PEAK - FLOOR) / down)
    assert found[steps] == FLOOR


def test_schedule_of_llama2c() -> None:
    """it/warmup from 0, then a cosine from the end of warm-up to the last step."""
    found = rates(kind="cosine", warmup_steps=10, warmup_from="zero", lr_min=0.0)
    assert found[0] == 0.0
    assert found[5] == pytest.approx(PEAK / 2)
    assert found[10] == PEAK
    assert found[60] == pytest.approx(PEAK * 0.5 * (1 + math.cos(math.pi * 50 / (STEPS - 10))))


@pytest.mark.parametrize("kind", ["cosine", "linear", "sqrt", "constant"])
@pytest.mark.parametrize("warmup_from", ["zero", "first", "next"])
def test_steps_and_shares_agree_and_steps_have_precedence(kind: str, warmup_from: str) -> None:
    more = {"kind": kind, "warmup_from": warmup_from}
    by_shares = rates(200, warmup_ratio=0.05, hold_until=0.3, decay_until=0.9, **more)
    by_steps = rates(200, warmup_steps=10, hold_steps=60, decay_steps=180, **more)
    assert by_steps == by_shares
    both = {"warmup_ratio": 0.5, "hold_until": 0.6, "decay_until": 0.7}
    assert rates(200, warmup_steps=10, hold_steps=60, decay_steps=180, **both, **more) == by_steps


def test_a_decay_may_end_after_the_run() -> None:
    """As with llama2.c's lr_decay_iters above max_iters."""
    assert rates(100, kind="cosine", decay_steps=200)[:100] == rates(200, kind="cosine")[:100]


@given(
    kind=st.sampled_from(["constant", "cosine", "linear", "sqrt"]),
    warmup_steps=st.integers(0, 50),
    warmup_ratio=st.floats(0, 1),
    warmup_from=st.sampled_from(["zero", "first", "next"]),
    hold_until=st.floats(0, 1),
    decay_until=st.floats(0.01, 1),
    steps=st.integers(1, 60),
)
def test_rates_are_between_zero_and_the_peak_and_fall_after_warmup(steps: int, **schedule: Any) -> None:
    found = rates(steps, **schedule)
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in found)
    top = found.index(max(found))
    assert all(later <= earlier for earlier, later in zip(found[top:], found[top + 1 :], strict=False))
    if schedule["kind"] in ("cosine", "linear"):
        assert found[steps] == FLOOR or schedule["hold_until"] == 1 or steps < schedule["warmup_steps"]


def test_momentum_warmup_of_nanochat() -> None:
    ramp = RunConfig(optim=OptimConfig(kind="muon", momentum=0.95, momentum_start=0.85, momentum_warmup_steps=300))
    for step in range(400):
        share = min(step / 300, 1)
        assert momentum_at(step, ramp) == pytest.approx((1 - share) * 0.85 + share * 0.95, rel=1e-15)
    assert momentum_at(0, ramp) == 0.85 and momentum_at(300, ramp) == 0.95
    assert {momentum_at(step, RunConfig()) for step in range(400)} == {0.95}
