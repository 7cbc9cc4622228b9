"""`bench ranks` on fewer ranks and smaller models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from workbench.bench import control, ranks, recompute


def test_control_traffic_reaches_every_rank() -> None:
    result = control.measure_control(5, 3)
    assert result["ranks"] == 5 and result["bytes"] >= 4 * (3 * 1024 + 3 * 8), "what the other ranks receive and send"
    assert "gatherings" in "\n".join(ranks.lines_of("control", result))


def test_recomputation_saves_fewer_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "SHAPE", replace(recompute.SHAPE, d_model=32, n_head=2, context=64))
    result = recompute.measure_recompute(1)
    assert result["blocks_kept"] < result["attention_kept"] < 1
    assert result["blocks_processor_time"]["median"] > 0
    assert "blocks processor time" in "\n".join(ranks.lines_of("recompute", result))


@pytest.mark.slow
def test_a_run_is_trained_and_measured(tmp_path: Path) -> None:
    run = ranks.create_run(tmp_path, "small", ranks.SHORT_STEPS | {"train.steps": "3"})
    (peak,) = ranks.run_ranks(run, tmp_path, 1, watch_memory=True).values()
    assert peak > 100e6, "a process with torch"
    assert ranks.tokens_per_second(run) > 0
