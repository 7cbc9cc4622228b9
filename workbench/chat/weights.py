"""The weights of a checkpoint, or of a run in training in this process or another. Imports torch late."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llm.config import WeightFormat
from llm.errors import UserError
from llm.events import CommandRefused, Saved
from llm.run import CheckpointInfo, EventTail, Run
from llm.run.checkpoints import read_checkpoint_info, read_manifest, weights_file

if TYPE_CHECKING:
    from llm.engine import Engine
    from llm.model.transformer import Transformer

LIVE = "live"
SNAPSHOT_TIMEOUT = 60.0  # seconds

Cancel = Callable[[], bool]


class Loaded(NamedTuple):
    """An engine and the weights it was built from; the engine may use a packed copy of them."""

    engine: Engine
    weights: Transformer
    step: int
    sha256: str = ""
    """Checksum of the weights file; "" without a file."""


class LiveModels(Protocol):
    """Gives the weights of the run that trains in this process."""

    def live_model(self, run_name: str) -> Any | None: ...


class LocalWeights:
    """The weights of a run that trains in this process: a copy for every reply."""

    def __init__(self, live: Any) -> None:
        self._live = live
        self._engine: Engine | None = None

    def load(self, cancel: Cancel) -> Loaded | None:
        """Copy the current weights; None if there was no step since the last copy."""
        from llm.engine import Engine

        if self._engine is not None and self._live.step == self._engine.weights_version:
            return None
        weights, step = self._live.snapshot()
        if self._engine is None:
            self._engine = Engine(weights, self._live.tokenizer, weights_version=step)
        else:
            self._engine.refresh(weights, step)
        return Loaded(self._engine, weights, step)


class RemoteWeights:
    """The weights of a run that trains in another process: requested from its trainer for every reply."""

    def __init__(self, run: Run, kind: WeightFormat | None = None) -> None:
        self._run, self._kind = run, kind
        self._step: int | None = None

    def load(self, cancel: Cancel) -> Loaded | None:
        """Request a snapshot; None if its step is unchanged or training is over. Raises UserError."""
        if self._step is not None and self._run.holder() is None:
            return None
        info = request_snapshot(self._run, cancel)
        if info.step == self._step:
            return None
        self._step = info.step
        return load_checkpoint(self._run, info, kind=self._kind)


def load_checkpoint(run: Run, info: CheckpointInfo, device: str = "auto", kind: WeightFormat | None = None) -> Loaded:
    """Load a checkpoint or a snapshot of `run`, by default to the fastest available device. `kind`: that of the weights
    to generate with, None for the run's `decode.weights`."""
    from llm.device import choose_device
    from llm.engine import Engine
    from llm.weights import load_model

    model, tokenizer = load_model(run, info, choose_device(device))
    sha256 = str(read_manifest(info.path)["files"].get(weights_file(info), {}).get("sha256", ""))
    engine = Engine(model, tokenizer, weights=kind or run.config().decode.weights, weights_version=str(info.path))
    return Loaded(engine, model, info.step, sha256)


def request_snapshot(run: Run, cancel: Cancel, timeout: float = SNAPSHOT_TIMEOUT) -> CheckpointInfo:
    """Ask the trainer of `run` to write its current weights, and wait for them. Raises UserError."""
    log = run.path / "events.jsonl"
    tail = EventTail(log, log.stat().st_size if log.exists() else 0)
    identity = run.send("snapshot")
    limit = time.monotonic() + timeout
    while time.monotonic() < limit and not cancel():
        for event in tail.poll():
            if isinstance(event, Saved) and event.command_id == identity:
                return snapshot_info(run, event)
            if isinstance(event, CommandRefused) and event.command_id == identity:
                raise UserError(f"{run.name} cannot write a snapshot ({event.reason}); open {run.name}@last instead.")
        if run.holder() is None:
            raise UserError(f"The training of {run.name} has just ended; open {run.name}@last.")
        time.sleep(0.05)
    raise UserError(f"{run.name} did not answer; it may still be preparing. Try again, or open {run.name}@last.")


def snapshot_info(run: Run, event: Saved) -> CheckpointInfo:
    """The snapshot that `event` reports. UserError if it was deleted meanwhile."""
    info = read_checkpoint_info(run.path / event.path)
    if info is None:
        raise UserError(f"The snapshot of {run.name} at step {event.step} no longer exists; try again.")
    return info
