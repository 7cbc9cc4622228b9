"""The presets of the five documents: learning rates at every turn, and lengths in every unit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from llm.config import resolve_accumulation, resolve_seq_len
from llm.optim import lr_at
from llm.training.batch_plan import resolve_batch_plan
from tests.config.seed_presets import preset, shape


def cosine(step: int, top: float, low: float, begin: int, end: int) -> float:
    return low + 0.5 * (1 + math.cos(math.pi * (step - begin) / (end - begin))) * (top - low)


def lecture(it: int) -> float:
    step = it + 1
    if step < 50:
        return 1e-4 * step / 50
    return 1e-5 if step > 900 else cosine(step, 1e-4, 1e-5, 50, 900)


def assignment(it: int) -> float:
    step = it + 1
    return 3e-4 * step / 100 if step < 100 else cosine(step, 3e-4, 3e-5, 100, 5000)


def tinystories(it: int) -> float:
    return 5e-4 * it / 1000 if it < 1000 else cosine(it, 5e-4, 0.0, 1000, 100_000)


def nanochat(it: int) -> float:
    return 0.02 * (1.0 if it <= 8000 else (10_000 - it) / 2000)


SCHEDULES: dict[str, tuple[int, Callable[[int], float], tuple[int, ...]]] = {
    "cs336-lecture": (1000, lecture, (0, 48, 49, 50, 500, 898, 899, 900, 999)),
    "cs336-assignment": (5000, assignment, (0, 98, 99, 100, 2500, 4998, 4999)),
    "gpt2-124m": (2700, lambda it: 4e-3, (0, 1, 1800, 2699)),
    "tinystories-llama": (100_000, tinystories, (0, 1, 999, 1000, 50_500, 99_999)),
    "nanochat-base": (10_000, nanochat, (0, 1, 7999, 8000, 8001, 9000, 9999)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_rate_at_first_last_and_boundary_steps(name: str) -> None:
    total, formula, steps = SCHEDULES[name]
    config = preset(name)
    assert [lr_at(step, total, config) for step in steps] == pytest.approx([formula(step) for step in steps], rel=1e-12)


def test_ends_of_decay() -> None:
    assert lr_at(4999, 5000, preset("cs336-assignment")) == 3e-5
    assert lr_at(9999, 10_000, preset("nanochat-base")) == pytest.approx(0.02 / 2000, rel=1e-9), "one notch above 0"
    stable = preset("gpt2-124m-stable")
    rates = [lr_at(step, 2700, stable) for step in range(2700)]
    assert max(rates) == rates[99] == 6e-4
    assert rates[-1] == pytest.approx(6e-5, rel=1e-3)


def test_accumulation_and_lengths() -> None:
    nanochat = preset("nanochat-base")
    assert resolve_accumulation(nanochat.train, nanochat.model) == 8
    batch_plan = resolve_batch_plan(nanochat, 32000, 10**9)
    assert (batch_plan.steps, batch_plan.tokens_per_step) == (10_000, 524_288)
    lecture = preset("cs336-lecture")
    tokens = 5_000_000
    gpt2 = preset("gpt2-124m")
    assert resolve_seq_len(gpt2.train, gpt2.model) == shape(gpt2).context == 1024
    assert resolve_seq_len(lecture.train, lecture.model) == 256
    assert resolve_batch_plan(lecture, 32000, tokens).steps == round(1.5 * tokens / (48 * 256))
    shorter = preset("cs336-lecture", train__seq_len="128")
    assert shape(shorter).context == 256, "what the model can see is separate from what it is trained on"
    assert resolve_batch_plan(shorter, 32000, tokens).tokens_per_step == 48 * 128


@pytest.mark.parametrize(
    ("field", "text", "steps"),
    [
        ("steps", "77", 77),
        ("tokens", "1e6", round(1e6 / 8192)),
        ("epochs", "2.5", round(2.5 * 300_000 / 8192)),
        ("tokens_per_parameter", "0.5", round(0.5 * 8_483_616 / 8192)),
    ],
)
def test_run_length_in_every_unit(field: str, text: str, steps: int) -> None:
    config = preset("tinystories-llama", **{f"train__{field}": text})
    assert resolve_batch_plan(config, 4096, 300_000).steps == steps


def test_run_length_by_flops() -> None:
    config = preset("tinystories-llama", train__flops="1e15")
    batch_plan = resolve_batch_plan(config, 4096, 300_000)
    assert batch_plan.steps == round(1e15 / (batch_plan.flops_per_token * 8192))
    assert batch_plan.steps * batch_plan.flops_per_token * 8192 == pytest.approx(1e15, rel=0.01)
