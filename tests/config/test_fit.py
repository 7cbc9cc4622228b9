"""Presets fitted to a machine: small enough, with the same architecture."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llm.config import RunConfig, list_presets, load_preset, resolve_model, with_overrides
from llm.config.fit import expected_vocab_size, fit, scale_interval, step_bytes
from llm.training.batch_plan import resolve_batch_plan

HOME = Path("/nonexistent")
LAPTOP = (2e9, 1e11, 10.0)  # bytes, operations a second, minutes
SERVER = (100e9, 4e14, 60 * 24.0)
NAMES = [preset.name for preset in list_presets(HOME)]


def fitted(name: str, machine: tuple[float, float, float]) -> tuple[RunConfig, RunConfig]:
    config = load_preset(name, HOME)
    return config, with_overrides(config, fit(config, *machine))


def cost(config: RunConfig) -> tuple[float, int]:
    """Operations of the whole training, and bytes of a step."""
    size = expected_vocab_size(config.tokenizer)
    batch_plan = resolve_batch_plan(config, size, round(config.data.size_mb * 1e6 / 4))
    model = resolve_model(config.model, size)
    return batch_plan.steps * batch_plan.tokens_per_step * batch_plan.flops_per_token, step_bytes(
        config, model, batch_plan.seq_len
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_a_laptop(name: str) -> None:
    _, small = fitted(name, LAPTOP)
    operations, memory = cost(small)
    assert operations <= LAPTOP[1] * LAPTOP[2] * 60
    assert memory <= LAPTOP[0]
    assert small.train.steps >= 100 or small.train.epochs or small.train.steps == load_preset(name, HOME).train.steps


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_if_it_fits(name: str) -> None:
    assert fit(load_preset(name, HOME), *SERVER) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_stays(name: str) -> None:
    config, small = fitted(name, LAPTOP)
    shape = {"n_layer", "d_model", "n_head", "n_kv_head", "d_ff", "depth", "context", "vocab_size"}
    for field in config.model.__dataclass_fields__:
        if field not in shape:
            assert getattr(small.model, field) == getattr(config.model, field), field
    warmup = small.optim.momentum_warmup_steps  # a share of the steps, as the schedule's
    assert replace(small.optim, momentum_warmup_steps=config.optim.momentum_warmup_steps) == config.optim
    assert warmup == scale_interval(config.optim.momentum_warmup_steps, small.train.steps, config.train.steps)
    assert small.decode == config.decode
    assert (small.schedule.kind, small.schedule.lr_min) == (config.schedule.kind, config.schedule.lr_min)
    before, after = (
        resolve_model(replace(c.model, vocab_size=0), expected_vocab_size(c.tokenizer)) for c in (config, small)
    )
    assert after.d_model // after.n_head == before.d_model // before.n_head
    assert after.n_head // after.n_kv_head == before.n_head // before.n_kv_head


def test_warmup_share_stays_and_more_time_gives_a_larger_model() -> None:
    config, small = fitted("tinystories-llama", LAPTOP)
    share = config.schedule.warmup_steps / config.train.steps
    assert small.schedule.warmup_steps == pytest.approx(share * small.train.steps, abs=1)
    _, larger = fitted("tinystories-llama", (2e9, 1e11, 600.0))
    assert small.model.d_model < larger.model.d_model < config.model.d_model


@pytest.mark.parametrize("name", NAMES)
def test_every_task_still_runs_and_improved_checkpoints_follow_evaluations(name: str) -> None:
    config, small = fitted(name, LAPTOP)
    before = (config.evaluate.every, config.checkpoint.every, config.sample.every)
    after = (small.evaluate.every, small.checkpoint.every, small.sample.every)
    assert [bool(every) for every in after] == [bool(every) for every in before]
    assert not small.checkpoint.only_improved or small.checkpoint.every == small.evaluate.every
    if config.train.steps:  # an epoch of a small text is short, and steps by time depend on the machine
        assert max(after) <= small.train.steps


def test_epochs_of_a_long_text_use_its_tokens() -> None:
    config = load_preset("cs336-lecture", HOME)
    assert fit(config, *SERVER, train_tokens=1_000_000) == []
    small = with_overrides(config, fit(config, *LAPTOP, train_tokens=500_000_000))
    assert (small.train.epochs, small.train.steps > 300) == (0.0, True)
    assert cost(small)[0] <= LAPTOP[1] * LAPTOP[2] * 60


def test_little_memory_turns_the_batch_into_accumulation() -> None:
    config = load_preset("gpt2-124m", HOME)
    plenty = 1e20
    small = with_overrides(config, fit(config, 4e9, plenty, 60))
    assert small.model == config.model
    assert small.train.batch_size < 8
    assert small.train.batch_size * small.train.accumulation == 8
    assert small.train.steps == 2700


def test_total_batch_tokens_stay_a_multiple() -> None:
    _, small = fitted("nanochat-base", LAPTOP)
    micro = small.train.batch_size * small.model.context
    assert small.train.total_batch_tokens % micro == 0


def test_fit_does_not_import_torch() -> None:
    code = "import sys, llm.config.fit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
