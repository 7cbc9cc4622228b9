"""The model of the chat: a checkpoint, or a run in training in this process or another. Imports torch late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llm.config import DecodeConfig
from llm.errors import UserError
from llm.events import CommandRefused, Saved
from llm.run import CheckpointInfo, EventTail, Run, find_checkpoint
from llm.run.checkpoints import MODEL, read_checkpoint_info, read_manifest
from workbench.chat.tokens import pieces, quoted

if TYPE_CHECKING:
    from llm.engine import Done, Engine, Piece
    from llm.model.transformer import Transformer
    from llm.sampling import Stage
    from llm.tokenizer.chat_template import Message

LIVE = "live"
SNAPSHOT_TIMEOUT = 60.0

Cancel = Callable[[], bool]


class Loaded(NamedTuple):
    """Weights ready to generate with: `weights` as loaded, of which the engine may use a packed copy."""

    engine: Engine
    weights: Transformer
    step: int
    sha256: str = ""
    """Of the weights' file; "" without a file."""


class LiveModels(Protocol):
    """Gives the weights of the run that trains in this process."""

    def live_model(self, run_name: str) -> Any | None: ...


class ChatModel:
    """A model of `run`, whose weights come from `load`: called at once and, in training, before every reply.

    `load` returns None if the weights have not changed.
    """

    def __init__(self, run: Run, load: Callable[[Cancel], Loaded | None], cancel: Cancel, *, in_training: bool) -> None:
        from llm.model.counts import parameters
        from llm.tokenizer.chat_template import chat_template

        loaded = load(cancel)
        assert loaded is not None, "the first load returns weights"
        config = run.config()
        self.run, self.in_training, self._load = run, in_training, load
        self.engine, self.weights, self.step, self.sha256 = loaded
        self.device = self.engine.device.type
        self.context = self.engine.context
        self.parameters = parameters(self.engine.model.config)
        self.decode = config.decode
        self.template = chat_template(self.engine.tokenizer, config.data.corpus)

    @property
    def name(self) -> str:
        """RUN@STEP of the current weights."""
        return f"{self.run.name}@{self.step}"

    def update(self, cancel: Cancel) -> None:
        """Load newer weights if the run is in training. Raises UserError."""
        if self.in_training and (loaded := self._load(cancel)) is not None:
            self.engine, self.weights, self.step, self.sha256 = loaded

    def save_weights(self) -> None:
        """Save the weights of a run in training as RUN@STEP. Raises OSError."""
        from llm.training.checkpoint import publish_weights

        publish_weights(self.run.kept_directory / f"step-{self.step:08d}", self.weights, self.step)

    def validate(self, params: DecodeConfig) -> None:
        """UserError if `params` name an unknown token or logits processor."""
        self.engine.pipeline(params)

    def prompt_ids(self, prompt: str | Sequence[int], params: DecodeConfig, given: Sequence[int] = ()) -> list[int]:
        """The tokens of a prompt, followed by the tokens `given`."""
        return [*self.engine.prompt_ids(prompt, params), *given]

    def conversation_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation up to where the next answer begins."""
        assert self.template is not None, "the model has a chat template"
        return self.template.prompt_ids(self.engine.tokenizer, messages)

    def prompt_changes(self, prompt: str) -> str:
        """A sentence about characters of the prompt that the tokenizer changes, or ""."""
        return self.engine.tokenizer.prompt_changes(prompt)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The complete characters of tokens that follow a prompt."""
        from llm.tokenizer.stream import StreamDecoder

        decoder = StreamDecoder(self.engine.tokenizer, continuing=True)
        return "".join(decoder.feed(token) for token in tokens)

    def stream(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        cancel: Cancel,
        params_source: Callable[[], DecodeConfig],
        given: Sequence[int] = (),
    ) -> Iterator[Piece | Done]:
        """Generate from `prompt` followed by the tokens `given`."""
        start = self.prompt_ids(prompt, params, given) if given else prompt
        return self.engine.stream(start, params, cancel=cancel, params_source=params_source)

    def explain(
        self, start: Sequence[int], params: DecodeConfig, *, generated: Sequence[int], also: Sequence[int], top: int
    ) -> list[Stage]:
        """The distribution of the token after `start` and `generated`: the `top` most likely tokens, and those of
        `also`, before and after each logits processor."""
        return self.engine.explain(start, params, generated=generated, also=also, top=top)

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """The tokens of a text, each as it is displayed."""
        return [text for _, text in pieces(self.engine.tokenizer, tokens)]

    def quote(self, token: int) -> str:
        """A single token as it is displayed."""
        return quoted(self.engine.tokenizer, token)


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

    def __init__(self, run: Run) -> None:
        self._run = run
        self._step: int | None = None

    def load(self, cancel: Cancel) -> Loaded | None:
        """Request a snapshot; None if its step is unchanged or training is over. Raises UserError."""
        if self._step is not None and self._run.holder() is None:
            return None
        info = request_snapshot(self._run, cancel)
        if info.step == self._step:
            return None
        self._step = info.step
        return load_checkpoint(self._run, info)


def load_checkpoint(run: Run, info: CheckpointInfo, device: str = "auto") -> Loaded:
    """Load a checkpoint or a snapshot of `run`, by default to the fastest available device."""
    from llm.device import choose_device
    from llm.engine import Engine
    from llm.weights import load_model

    model, tokenizer = load_model(run, info, choose_device(device))
    sha256 = str(read_manifest(info.path)["files"].get(MODEL, {}).get("sha256", ""))
    return Loaded(Engine(model, tokenizer, weights_version=str(info.path)), model, info.step, sha256)


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
                raise UserError(f"{run.name} refused a snapshot ({event.reason}); open {run.name}@last instead.")
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


def open_model(home: Path, training: LiveModels, reference: str, cancel: Cancel) -> ChatModel:
    """The model of `RUN`, `RUN@best`, `RUN@STEP` or `RUN@live`. `@live` of a run that is not in training is its last
    checkpoint. Raises UserError."""
    name, _, which = reference.rpartition("@") if "@" in reference else (reference, "", "")
    if which == LIVE:
        run = Run.open(home, name)
        live = training.live_model(name)
        if live is not None:
            return ChatModel(run, LocalWeights(live).load, cancel, in_training=True)
        holder = run.holder()
        if holder is not None and holder.is_here:
            raise UserError(f"{name} is still preparing its data; try again after its first step.")
        if holder is not None:
            return ChatModel(run, RemoteWeights(run).load, cancel, in_training=True)
        reference = name
    run, info = find_checkpoint(home, reference)
    return ChatModel(run, lambda cancel: load_checkpoint(run, info), cancel, in_training=False)
