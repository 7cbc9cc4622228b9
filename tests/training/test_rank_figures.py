"""What the Train screen shows of several ranks, and commands from several workbenches, in a real run on two ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm.events import Event, Finished, RanksMeasured, Saved, StepLogged
from llm.run import Run
from tests.forking import complete_on_ranks, run_trainer
from workbench.charts.curves import RunCurves
from workbench.train.panels import rank_figures

from .conftest import MakeRun
from .ranks_for_tests import SETTINGS

PATIENCE = 300.0


def run_measured(*words: str) -> None:
    """The trainer, which measures its ranks before every step."""
    from llm.training import rank_metrics

    rank_metrics.SECONDS = 0.0
    run_trainer(*words)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_the_figures_of_ranks_and_a_command_from_each_of_two_workbenches(make_run: MakeRun, sharding: str) -> None:
    run = make_run("watched", **SETTINGS, train__sharding=sharding)
    curves = RunCurves(run)
    with ThreadPoolExecutor(1) as thread:
        ranks = thread.submit(complete_on_ranks, 2, str(run.path), program=run_measured)
        try:
            wait_for(run, lambda event: isinstance(event, StepLogged) and event.step >= 12)
            asked = [Run.open(run.path.parents[1], run.name).send("save") for _ in range(2)]
            wait_for(run, lambda event: isinstance(event, Saved) and event.command_id == asked[1])
        finally:
            run.send("stop")
        for ended in ranks.result():
            assert ended.returncode == 0, ended.stderr
    events = list(run.events())
    for command in asked:
        assert len([event for event in events if isinstance(event, Saved) and event.command_id == command]) == 1
    assert isinstance(events[-1], Finished)
    last = [event for event in events if isinstance(event, RanksMeasured)][-1]
    assert set(last.compute_ms) == set(last.waiting_ms) == set(last.memory_bytes) == {"0", "1"}
    assert all(value > 0 for value in (*last.compute_ms.values(), *last.memory_bytes.values()))
    assert 0 < last.waiting_share < 1
    while curves.poll():
        pass
    assert curves.last_step is not None
    names = dict(rank_figures(curves, curves.last_step))
    assert names["per rank"].endswith(" × 2") and names["slowest rank"][:1] in "01"
    assert names["communication"].endswith("%") and " to " in names["memory per rank"]


def wait_for(run: Run, is_it: Callable[[Event], bool]) -> None:
    tail, deadline = run.tail(), time.monotonic() + PATIENCE
    while not any(map(is_it, tail.poll())):
        assert time.monotonic() < deadline
        time.sleep(0.02)
