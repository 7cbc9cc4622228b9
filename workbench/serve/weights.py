"""Where the weights of the served model come from: a checkpoint, or a run in training here or in another process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.config import WeightFormat
from llm.errors import UserError
from llm.run import Run, find_checkpoint
from workbench.chat.weights import LIVE, LiveModels, Loaded, RemoteWeights, load_checkpoint
from workbench.serve.scheduler import LoadWeights, Weights


class Source:
    """The served model: its run, and `load` for its newest weights.

    `is_live`: they change while the server runs.
    """

    def __init__(self, run: Run, load: LoadWeights, *, is_live: bool) -> None:
        self.run, self.load, self.is_live = run, load, is_live


def open_source(
    home: Path,
    reference: str,
    training: LiveModels,
    device: str = "auto",
    kind: WeightFormat | None = None,
    on_damage: Callable[[str], object] = lambda message: None,
) -> Source:
    """The model of `RUN`, `RUN@live`, `RUN@last`, `RUN@best` or `RUN@STEP`. A run that is in training is live unless
    the reference names a checkpoint. `kind`: that of the weights, None for the run's `decode.weights`.
    `on_damage`: as in `find_checkpoint`. Raises UserError."""
    name, _, which = reference.partition("@")
    if which in ("", LIVE):
        run = Run.open(home, name)
        if training.live_model(name) is not None:
            return Source(run, LocalSource(run, training, kind or "auto"), is_live=True)
        holder = run.holder()
        if holder is not None and not holder.is_here:
            return Source(run, RemoteSource(run, kind), is_live=True)
        reference = name
    run, info = find_checkpoint(home, reference, on_damage)
    weights = to_weights(run, load_checkpoint(run, info, device, kind))
    return Source(run, Once(weights), is_live=False)


def to_weights(run: Run, loaded: Loaded) -> Weights:
    return Weights(loaded.engine.model, loaded.engine.tokenizer, f"{run.name}@{loaded.step}")


class Once:
    """Weights that never change."""

    def __init__(self, weights: Weights) -> None:
        self._weights: Weights | None = weights

    def __call__(self) -> Weights | None:
        weights, self._weights = self._weights, None
        return weights


class LocalSource:
    """The weights of a run that trains in this process: a copy for every step at which a request arrives."""

    def __init__(self, run: Run, training: LiveModels, kind: WeightFormat) -> None:
        self._run, self._training, self._kind = run, training, kind
        self._step: int | None = None

    def __call__(self) -> Weights | None:
        from llm.engine import Engine

        live: Any = self._training.live_model(self._run.name)
        if live is None and self._step is None:
            raise UserError(f"The training of {self._run.name} has just ended; try again.")
        if live is None or live.step == self._step:
            return None
        model, self._step = live.snapshot()
        return to_weights(self._run, Loaded(Engine(model, live.tokenizer, weights=self._kind), model, self._step))


class RemoteSource:
    """The weights of a run that trains in another process: its trainer writes them when a request arrives."""

    def __init__(self, run: Run, kind: WeightFormat | None) -> None:
        self._run, self._remote = run, RemoteWeights(run, kind)

    def __call__(self) -> Weights | None:
        loaded = self._remote.load(lambda: False)
        return None if loaded is None else to_weights(self._run, loaded)
