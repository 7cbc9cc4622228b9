"""The events of a training run, and their JSON form: one object per line of `events.jsonl`.

`type` is the class name, `time` Unix seconds, `elapsed` seconds of training so far. Non-finite numbers are the strings
"NaN", "Infinity" and "-Infinity", so that every line is strict JSON. A reader ignores unknown types and fields, so
that newer runs stay readable.
"""

from __future__ import annotations

import json
import math
import time as clock
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Common to all events."""

    time: float = field(default_factory=clock.time)
    elapsed: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """Training starts or resumes after `step`; later steps logged before this line are discarded. `minutes`: the length
    of the run if it is given in time, from which `total_steps` was computed. `micro_batch`: sequences per micro-batch
    where `train.batch_size` is 0."""

    step: int
    total_steps: int
    parameters: int
    tokens_per_step: int
    device: str
    precision: str
    threads: int
    compiled: bool
    pid: int
    host: str
    resumed_from: str = ""
    changed: Json = field(default_factory=dict)
    world_size: int = 1
    minutes: float = 0.0
    micro_batch: int = 0


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """Progress of work other than training steps: `done` of `total` (0 = unknown) in `unit`, `rate` per second where it
    is known. `step` is the last completed step."""

    stage: str
    done: float
    total: float
    unit: str = ""
    rate: float = 0.0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepLogged(Event):
    """A completed step. `loss` is nats per token, the mean over micro-batches and ranks; `lr_multiplier` is `lr`
    relative to its peak, from the schedule and live changes; `step_ms` is wall time per step since the previous
    `StepLogged`, without evaluations, samples, pauses and saves; `mfu` is the share of the device's peak FLOPs, None
    where that is unknown."""

    step: int
    tokens_seen: int
    loss: float
    lr: float
    lr_multiplier: float
    grad_norm: float
    step_ms: float
    tokens_per_second: float
    total_flops: float
    memory_bytes: int = 0
    mfu: float | None = None


@dataclass(frozen=True, kw_only=True)
class RanksMeasured(Event):
    """Measurements of all ranks, by rank: computation in one micro-batch, communication that it does not hide (0 where
    it is not measured), and memory."""

    step: int
    compute_ms: dict[str, float]
    waiting_ms: dict[str, float]
    memory_bytes: dict[str, float]

    @property
    def slowest(self) -> tuple[str, float]:
        """The rank that computes longest, and by what share it exceeds the mean; ("", 0) where it is not measured."""
        mean = sum(self.compute_ms.values()) / max(1, len(self.compute_ms))
        if not mean > 0:
            return "", 0.0
        rank = max(self.compute_ms, key=lambda one: self.compute_ms[one])
        return rank, self.compute_ms[rank] / mean - 1

    @property
    def waiting_share(self) -> float:
        """The mean share of a micro-batch that ranks spend in communication."""
        compute, waiting = sum(self.compute_ms.values()), sum(self.waiting_ms.values())
        return waiting / (compute + waiting) if compute + waiting > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """Validation loss in nats per token, its perplexity, and bits per byte of text."""

    step: int
    validation_loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    train_loss: float | None = None
    best: bool = False
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricsLogged(Event):
    """The metrics of the stage at a logged step, by name; those of an evaluation have `is_validation`."""

    step: int
    metrics: dict[str, float]
    is_validation: bool = False


@dataclass(frozen=True, kw_only=True)
class CoreEvaluated(Event):
    """The CORE metric: the mean of `centred`. `tasks` holds accuracies, `centred` the same scaled so that guessing is 0
    and perfect accuracy is 1."""

    step: int
    core_metric: float
    tasks: dict[str, float]
    centred: dict[str, float]
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class AnswersEvaluated(Event):
    """The share of exact answers to held-out questions, over all `questions` and by kind."""

    step: int
    exact_answers: float
    kinds: dict[str, float]
    questions: int
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    """A text generated during training."""

    step: int
    prompt: str
    text: str
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A checkpoint (or, with kind "snapshot", the live weights) was published at `path`, relative to the run."""

    step: int
    path: str
    size_bytes: int
    kind: str = "checkpoint"
    best: bool = False
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class KnobSet(Event):
    """A live setting changed, effective from the step after `step`."""

    step: int
    key: str
    value: Any
    previous: Any
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class CommandRefused(Event):
    """A command was refused, with the reason."""

    step: int
    command: str
    reason: str
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Skipped(Event):
    """A step whose update was not applied."""

    step: int
    reason: str
    loss: float
    grad_norm: float
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class RolledBack(Event):
    """The state of `step` was restored; later steps are discarded."""

    step: int
    from_step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """A warning; training continues."""

    step: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Paused(Event):
    step: int
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    step: int
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """Training ended. `status` is finished (reached its length), stopped (by a command), or failed."""

    step: int
    status: str
    reason: str = ""
    command_id: str = ""


TYPES: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Started,
        Progress,
        StepLogged,
        RanksMeasured,
        Evaluated,
        MetricsLogged,
        CoreEvaluated,
        AnswersEvaluated,
        Sampled,
        Saved,
        KnobSet,
        CommandRefused,
        Skipped,
        RolledBack,
        Warned,
        Paused,
        Resumed,
        Finished,
    )
}


LATEST = 95_600_000_000.0
FLOATS = ("float", "float | None")
KINDS: dict[str, tuple[type, ...]] = {
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "dict[str, float]": (dict,),
    "Json": (dict,),
}
"""Annotation -> the JSON types a field may hold; other annotations accept any value."""


def field_layout(kind: type[Event]) -> tuple[tuple[str, Any, tuple[type, ...], bool], ...]:
    """(name, annotation, JSON types used unchanged, is required) of each field."""
    return tuple(
        (
            item.name,
            item.type,
            () if item.type == "dict[str, float]" else KINDS.get(str(item.type), ()),
            item.default is MISSING and item.default_factory is MISSING,
        )
        for item in fields(kind)
    )


FIELD_LAYOUTS = {kind: field_layout(kind) for kind in TYPES.values()}


def to_line(event: Event) -> bytes:
    """One line of `events.jsonl`, newline included."""
    record = {"type": type(event).__name__} | {item.name: getattr(event, item.name) for item in fields(event)}
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"


def from_record(record: Json) -> Event | None:
    """The event of a parsed line; None where the type is unknown, or a field is missing or of another type."""
    kind = TYPES.get(str(record.get("type")))
    if kind is None:
        return None
    known: Json = {}
    for name, annotation, plain, is_required in FIELD_LAYOUTS[kind]:
        if name not in record:
            if is_required:
                return None
            continue
        value = record[name]
        if type(value) not in plain:
            try:
                value = to_field_value(value, annotation)
            except ValueError:
                return None
        known[name] = value
    event = kind(**known)
    return event if is_unix_time(event.time) else None


def is_unix_time(value: Any) -> bool:
    """Whether a value is a valid time in Unix seconds: not negative, and before the year 5000."""
    return type(value) in (int, float) and 0 <= value < LATEST


def finite(value: Any) -> Any:
    """`value` with non-finite floats, at any depth, as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def to_field_value(value: Any, annotation: Any) -> Any:
    """A field's value from JSON, where non-finite floats are strings. ValueError where it has another type than the
    field."""
    if type(value) is str and annotation in FLOATS:
        return float(value)
    kinds = KINDS.get(annotation)
    if kinds is not None and type(value) not in kinds:
        raise ValueError(f"{value!r} is not {annotation}")
    if annotation == "dict[str, float]":
        return {name: to_field_value(number, "float") for name, number in value.items()}
    return value
