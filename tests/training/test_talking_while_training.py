"""Training while somebody talks to the model throughout ends as training alone: the same weights, bit for bit."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llm.config.decode_schema import DecodeConfig
from llm.engine import Done, Engine, use_one_thread
from llm.engine import weights as engine_weights
from llm.events import Event, StepLogged
from llm.training.live import LiveWeights
from llm.training.run import run_training

from .conftest import MakeRun
from .test_resume import assert_same_end

STEPS = 40
PATIENCE = 120.0


class Chatter(threading.Thread):
    """Asks the model in training one thing after another, as a chat does: newer weights before each reply."""

    def __init__(self, live: LiveWeights) -> None:
        super().__init__(daemon=True)
        self.live = live
        self.enough = threading.Event()
        self.replied = threading.Condition()
        self.versions: list[int] = []

    def run(self) -> None:
        use_one_thread()
        model, step = self.live.snapshot()
        engine = Engine(model, self.live.tokenizer, weights_version=step)
        while not self.enough.is_set():
            if self.live.step != engine.weights_version:
                model, step = self.live.snapshot()
                engine.refresh(model, step)
            params = DecodeConfig(temperature=1.0, top_p=0.9, seed=len(self.versions), max_tokens=6, num_samples=2)
            *_, done = engine.stream("the cat", params)
            assert isinstance(done, Done)
            with self.replied:
                self.versions.append(step)
                self.replied.notify()

    def wait_for_a_reply_since(self, step: int) -> None:
        """Until there is one whose weights are of `step` or later."""
        with self.replied:
            assert self.replied.wait_for(lambda: self.versions and self.versions[-1] >= step, PATIENCE)


@pytest.mark.parametrize("packed_from", [engine_weights.PACKED_FROM, pytest.param(1, marks=pytest.mark.slow)])
def test_the_weights_are_those_of_a_run_alone(
    make_run: MakeRun, tmp_path: Path, packed_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_weights, "PACKED_FROM", packed_from)
    settings = {"train__steps": str(STEPS), "sample__every": "0", "checkpoint__every": "20"}
    alone, talked = make_run("alone", **settings), make_run("talked-to", **settings)
    assert run_training(alone, tmp_path).status == "finished"
    chatters: list[Chatter] = []

    def on_live(live: LiveWeights) -> None:
        chatters.append(Chatter(live))
        chatters[0].start()

    def on_event(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step % 10 == 1:
            chatters[0].wait_for_a_reply_since(event.step - 1)

    try:
        assert run_training(talked, tmp_path, on_live=on_live, on_event=on_event).status == "finished"
    finally:
        for chatter in chatters:
            chatter.enough.set()
            chatter.join(PATIENCE)
    assert len(set(chatters[0].versions)) >= STEPS // 10, "it was talked to throughout"
    assert_same_end(alone, talked)
