"""A run in training is served with its newest weights, and trains as if nobody asked."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm.config import RunConfig, with_overrides
from llm.engine.continuous import Request
from llm.run import Run
from llm.training.run import run_training
from tests.conftest import tiny_config
from workbench.serve.scheduler import Scheduler
from workbench.serve.weights import open_source


class Training:
    """Trains in a thread, and gives access to its weights as the workbench does."""

    def __init__(self, run: Run, home: Path) -> None:
        self.live: Any = None
        self.has_weights = threading.Event()
        self.thread = threading.Thread(target=run_training, args=(run, home), kwargs={"on_live": self.share})
        self.thread.start()

    def share(self, live: Any) -> None:
        self.live = live
        self.has_weights.set()

    def live_model(self, run_name: str) -> Any:
        return self.live if self.thread.is_alive() else None


def weights_of(run: Run) -> str:
    return hashlib.sha256((run.checkpoint().path / "model.safetensors").read_bytes()).hexdigest()


async def ask_until_the_end(scheduler: Scheduler, training: Training, config: RunConfig) -> list[str]:
    """The weights that answered, request by request."""
    answered = []
    params = replace(config.decode, max_tokens=3, num_samples=2)
    while training.thread.is_alive():
        job = scheduler.submit([Request((65, 66), params)])
        async for _ in job.tokens():
            pass
        scheduler.cancel(job)
        answered.append(job.weights)
    return answered


def test_the_newest_weights_answer_and_training_is_the_same(corpus: Path, home: Path) -> None:
    config = with_overrides(tiny_config(corpus), [("train.steps", "150"), ("evaluate.every", "0")])
    alone, watched = Run.create(home, "alone", config), Run.create(home, "watched", config)
    run_training(alone, home)
    training = Training(watched, home)
    assert training.has_weights.wait(30)
    source = open_source(home, "watched", training)
    assert source.is_live
    scheduler = Scheduler(source.load, max_open=8, one_thread=True)
    scheduler.start()
    answered = asyncio.run(ask_until_the_end(scheduler, training, config))
    scheduler.stop()
    training.thread.join()
    steps = [int(weights.partition("@")[2]) for weights in answered]
    assert steps == sorted(steps)
    assert len(set(steps)) > 2
    assert weights_of(watched) == weights_of(alone)
