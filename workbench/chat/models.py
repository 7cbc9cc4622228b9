"""A model to talk to: a checkpoint, or one in training, here or in another process. Imports torch only when used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llm.config import DecodeConfig
from llm.errors import UserError
from llm.events import CommandRefused, Saved
from llm.run import CheckpointInfo, EventTail, Run, find_checkpoint, list_runs
from llm.run.checkpoints import read_checkpoint_info, read_manifest
from workbench.chat.tokens import pieces, quoted

if TYPE_CHECKING:
    from llm.engine import Done, Engine, Piece
    from llm.model.transformer import Transformer
    from llm.sampling import Stage
    from llm.tokenizer.chat_template import ChatTemplate

LIVE = "live"
SNAPSHOT_PATIENCE = 60.0


class Talker(Protocol):
    """What a chat needs of a model."""

    context: int
    parameters: int
    decode: DecodeConfig
    turns: ChatTemplate | None
    in_training: bool
    """Whether its weights are those of a run in training, which no checkpoint may hold."""
    sha256: str
    """That of the file its weights came from; "" where there is none."""
    device: str
    engine: Engine

    @property
    def name(self) -> str:
        """The run, and the step its weights have now."""

    def update(self, cancelled: Callable[[], bool]) -> None:
        """Take over newer weights, if the model is in training. Called before every reply."""

    def keep(self) -> None:
        """Write the weights of a model in training down, to be found as RUN@STEP. OSError where the disk refuses."""

    def check(self, params: DecodeConfig) -> None:
        """UserError where knobs name what this model does not have."""

    def prompt_ids(self, prompt: str | Sequence[int], params: DecodeConfig) -> list[int]:
        """The tokens of a prompt."""

    def prompt_changes(self, prompt: str) -> str:
        """What of a prompt the model does not get to see as it stands, in a sentence, or ""."""

    def text_of(self, tokens: Sequence[int]) -> str:
        """The whole characters of tokens that follow a prompt."""

    def stream(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        cancel: Callable[[], bool],
        params_source: Callable[[], DecodeConfig],
        given: Sequence[int] = (),
    ) -> Iterator[Piece | Done]:
        """Write on from `prompt` and the tokens `given` after it."""

    def explain(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        given: Sequence[int],
        generated: Sequence[int],
        also: Sequence[int],
        top: int,
    ) -> list[Stage]:
        """What the next token of a reply, begun with `given`, is drawn from after it has `written` more: the `top`
        likeliest tokens, and those of `also`."""

    def shown(self, tokens: Sequence[int]) -> list[str]:
        """The tokens of a text, each as it is shown."""

    def quoted(self, token: int) -> str:
        """One token by itself, as it is shown."""


class LiveService(Protocol):
    """What is needed of the training service: the weights of the run that trains in this program."""

    def live_model(self, run_name: str) -> Any | None: ...


class ModelTalker:
    """An engine on the weights of one run, with what the screen says about it."""

    in_training = False

    def __init__(self, run: Run, engine: Engine, step: int, sha256: str = "") -> None:
        from llm.model.counts import parameters
        from llm.tokenizer.chat_template import chat_template

        config = run.config()
        self.run, self.engine, self.step, self.sha256 = run, engine, step, sha256
        self.device = engine.device.type
        self.context = engine.context
        self.parameters = parameters(engine.model.config)
        self.decode = config.decode
        self.turns = chat_template(config.data.corpus)

    @property
    def name(self) -> str:
        return f"{self.run.name}@{self.step}"

    def update(self, cancelled: Callable[[], bool]) -> None:
        """A kept checkpoint never changes."""

    def keep(self) -> None:
        """It is kept."""

    def check(self, params: DecodeConfig) -> None:
        self.engine.pipeline(params)

    def prompt_ids(self, prompt: str | Sequence[int], params: DecodeConfig) -> list[int]:
        return self.engine.prompt_ids(prompt, params)

    def prompt_changes(self, prompt: str) -> str:
        return self.engine.tokenizer.prompt_changes(prompt)

    def text_of(self, tokens: Sequence[int]) -> str:
        from llm.tokenizer.stream import StreamDecoder

        decoder = StreamDecoder(self.engine.tokenizer, continuing=True)
        return "".join(decoder.feed(token) for token in tokens)

    def stream(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        cancel: Callable[[], bool],
        params_source: Callable[[], DecodeConfig],
        given: Sequence[int] = (),
    ) -> Iterator[Piece | Done]:
        begun = [*self.engine.prompt_ids(prompt, params), *given] if given else prompt
        return self.engine.stream(begun, params, cancel=cancel, params_source=params_source)

    def explain(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        given: Sequence[int],
        generated: Sequence[int],
        also: Sequence[int],
        top: int,
    ) -> list[Stage]:
        begun = [*self.engine.prompt_ids(prompt, params), *given]
        return self.engine.explain(begun, params, generated=generated, also=also, top=top)

    def shown(self, tokens: Sequence[int]) -> list[str]:
        return [text for _, text in pieces(self.engine.tokenizer, tokens)]

    def quoted(self, token: int) -> str:
        return quoted(self.engine.tokenizer, token)


class TrainingTalker(ModelTalker):
    """A model in training. `weights` are those of the last reply, as they can be written down."""

    in_training = True
    weights: Transformer

    def keep(self) -> None:
        from llm.training.checkpoint import publish_weights

        publish_weights(self.run.kept_directory / f"step-{self.step:08d}", self.weights, self.step)


class LiveTalker(TrainingTalker):
    """The model that trains in this program: every reply comes from a copy made when it begins."""

    def __init__(self, run: Run, live: Any) -> None:
        from llm.engine import Engine

        self.live = live
        self.weights, step = live.snapshot()
        super().__init__(run, Engine(self.weights, live.tokenizer, weights_version=step), step)

    def update(self, cancelled: Callable[[], bool]) -> None:
        if self.live.step != self.engine.weights_version:
            self.weights, self.step = self.live.snapshot()
            self.engine.refresh(self.weights, self.step)


class SnapshotTalker(TrainingTalker):
    """A model that trains in another process: it is asked for its weights when a reply begins."""

    def __init__(self, run: Run, cancelled: Callable[[], bool]) -> None:
        info = ask_for_snapshot(run, cancelled)
        engine, self.weights = engine_of(run, info)
        super().__init__(run, engine, info.step, sha256_of_weights(info))

    def update(self, cancelled: Callable[[], bool]) -> None:
        if self.run.holder() is None:
            return
        info = ask_for_snapshot(self.run, cancelled)
        if info.step != self.step:
            self.engine, self.weights = engine_of(self.run, info)
            self.step, self.sha256 = info.step, sha256_of_weights(info)


def engine_of(run: Run, info: CheckpointInfo) -> tuple[Engine, Transformer]:
    """An engine on a checkpoint or a snapshot of `run`, on the fastest device there is; and the weights as they were
    loaded, which the engine may have arranged otherwise."""
    from llm.device import choose_device
    from llm.engine import Engine
    from llm.weights import load_model

    model, tokenizer = load_model(run, info, choose_device("auto"))
    return Engine(model, tokenizer, weights_version=str(info.path)), model


def sha256_of_weights(info: CheckpointInfo) -> str:
    """The checksum of the weights, as the manifest has it."""
    from llm.run.checkpoints import MODEL

    return str(read_manifest(info.path)["files"].get(MODEL, {}).get("sha256", ""))


def ask_for_snapshot(run: Run, cancelled: Callable[[], bool], patience: float = SNAPSHOT_PATIENCE) -> CheckpointInfo:
    """Have the trainer of `run` write down its weights as they are now, and wait for them."""
    log = run.path / "events.jsonl"
    tail = EventTail(log, log.stat().st_size if log.exists() else 0)
    identity = run.send("snapshot")
    limit = time.monotonic() + patience
    while time.monotonic() < limit and not cancelled():
        for event in tail.poll():
            if isinstance(event, Saved) and event.command_id == identity:
                return snapshot_info(run, event)
            if isinstance(event, CommandRefused) and event.command_id == identity:
                raise UserError(
                    f"{run.name} did not give its weights ({event.reason}); talk to {run.name}@last instead."
                )
        if run.holder() is None:
            raise UserError(f"the training of {run.name} has just ended; talk to {run.name}@last.")
        time.sleep(0.05)
    raise UserError(f"{run.name} did not answer; it may still be preparing: try again, or talk to {run.name}@last.")


def snapshot_info(run: Run, event: Saved) -> CheckpointInfo:
    info = read_checkpoint_info(run.path / event.path)
    if info is None:
        raise UserError(f"the weights of {run.name} at step {event.step} are gone already; ask again.")
    return info


def open_talker(home: Path, training: LiveService, reference: str, cancelled: Callable[[], bool]) -> ModelTalker:
    """The model that `RUN`, `RUN@best`, `RUN@STEP` or `RUN@live` names. `@live` of a run that is not in training is its
    newest checkpoint. Raises `UserError`."""
    name, _, which = reference.rpartition("@") if "@" in reference else (reference, "", "")
    if which == LIVE:
        run = Run.open(home, name)
        live = training.live_model(name)
        if live is not None:
            return LiveTalker(run, live)
        holder = run.holder()
        if holder is not None and holder.is_here:
            raise UserError(f"{name} is still preparing its data; talk to it once its first step is done.")
        if holder is not None:
            return SnapshotTalker(run, cancelled)
        reference = name
    run, info = find_checkpoint(home, reference)
    return ModelTalker(run, engine_of(run, info)[0], info.step, sha256_of_weights(info))


@dataclass(frozen=True)
class Choice:
    """A model that can be talked to: its reference, and what distinguishes it."""

    reference: str
    description: str


def run_name(reference: str) -> str:
    """The run of `RUN` or `RUN@STEP`."""
    return reference.rpartition("@")[0] or reference


def choices(home: Path, limit: int = 200) -> list[Choice]:
    """The models of the newest runs: in training first, then each run's checkpoints, the newest first."""
    found: list[Choice] = []
    for run in list_runs(home)[:limit]:
        try:
            infos, kept, holder = run.checkpoints(), run.kept(), run.holder()
        except (UserError, OSError):
            continue  # a run that is damaged, or was deleted meanwhile, cannot be talked to
        if holder is not None:
            found.append(Choice(f"{run.name}@{LIVE}", "in training now"))
        found += [Choice(f"{run.name}@{info.step}", described(info)) for info in reversed(infos)]
        found += [Choice(f"{run.name}@{info.step}", "kept from a chat") for info in reversed(kept)]
    return sorted(found, key=lambda choice: not choice.reference.endswith(f"@{LIVE}"))


def described(info: CheckpointInfo) -> str:
    """What one would want to know of a checkpoint before talking to it."""
    words = [word for word, holds in (("best", info.best), ("last", info.last), ("pinned", info.pinned)) if holds]
    loss = info.metrics.get("validation_loss")
    return "  ".join(([f"validation {loss:.3f}"] if loss is not None else []) + words)


def is_in_training(home: Path, reference: str) -> bool:
    """Whether the run of a reference is being trained now, here or elsewhere."""
    try:
        return Run.open(home, reference.partition("@")[0]).holder() is not None
    except UserError:
        return False


def usual_choice(home: Path, active: str | None) -> str:
    """What to talk to when nobody said: the model in training here, else the newest run with a checkpoint, else ""."""
    if active:
        return f"{active}@{LIVE}"
    for run in list_runs(home):
        if any(run.checkpoint_directory.glob("step-*")):
            return run.name
    return ""
