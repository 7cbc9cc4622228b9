"""What a training run can say, and its JSON form: one object per line of `events.jsonl`.

`type` is the class name, `time` Unix seconds, `elapsed` seconds of training so far. Non-finite numbers travel as the
strings "NaN", "Infinity" and "-Infinity", so that every line is strict JSON. A reader ignores types and fields it does
not know: newer runs stay readable.
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
    """Training begins, or begins again, after `step`; later steps logged before this line are void."""

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


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """Work that is not a step of training: `done` of `total` (0 = unknown) in `unit`, `rate` of them a second where it
    is known. It comes after `step`, 0 where none was taken yet."""

    stage: str
    done: float
    total: float
    unit: str = ""
    rate: float = 0.0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepLogged(Event):
    """A completed step. `loss` is nats per token, the mean over micro-batches and ranks; `lr_multiplier` is `lr` as a
    share of its peak, by schedule and live knob together; `step_ms` is wall time per step since the line before,
    without evaluations, samples, pauses and what saves stop it for; `mfu` is a share of the device's peak, where that
    is known."""

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
class Evaluated(Event):
    """Held-out loss in nats per token, its perplexity, and bits per byte of text."""

    step: int
    validation_loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    train_loss: float | None = None
    best: bool = False
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class CoreEvaluated(Event):
    """The CORE metric: the mean of `centred`. `tasks` are shares of right answers, `centred` the same with 0 for
    guessing and 1 for always right."""

    step: int
    core_metric: float
    tasks: dict[str, float]
    centred: dict[str, float]
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    """Text the model wrote while training."""

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
    """A live knob took effect, beginning with the step after `step`."""

    step: int
    key: str
    value: Any
    previous: Any
    command_id: str = ""


@dataclass(frozen=True, kw_only=True)
class CommandRefused(Event):
    """A command that could not be obeyed, and why."""

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
    """The state of `step` was restored; steps after it are void."""

    step: int
    from_step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something the person should know; training goes on."""

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
    """Training ended. `status` is finished (reached its length), stopped (asked to), or failed."""

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
        Evaluated,
        CoreEvaluated,
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
"""What a field may hold as plain JSON, by its annotation; the others hold anything."""


def layout(kind: type[Event]) -> tuple[tuple[str, Any, tuple[type, ...], bool], ...]:
    """Of each field: its name, its annotation, the kinds of plain JSON it takes as they are, whether it is required."""
    return tuple(
        (
            item.name,
            item.type,
            () if item.type == "dict[str, float]" else KINDS.get(str(item.type), ()),
            item.default is MISSING and item.default_factory is MISSING,
        )
        for item in fields(kind)
    )


LAYOUTS = {kind: layout(kind) for kind in TYPES.values()}


def to_line(event: Event) -> bytes:
    """One line of `events.jsonl`, newline included."""
    record = {"type": type(event).__name__} | {item.name: getattr(event, item.name) for item in fields(event)}
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"


def from_record(record: Json) -> Event | None:
    """The event a parsed line stands for; None where the type is unknown, or a field is missing or of another kind."""
    kind = TYPES.get(str(record.get("type")))
    if kind is None:
        return None
    known: Json = {}
    for name, annotation, plain, is_required in LAYOUTS[kind]:
        if name not in record:
            if is_required:
                return None
            continue
        value = record[name]
        if type(value) not in plain:
            try:
                value = restored(value, annotation)
            except ValueError:
                return None
        known[name] = value
    event = kind(**known)
    return event if is_moment(event.time) else None


def is_moment(value: Any) -> bool:
    """Whether a value is a time in Unix seconds that a calendar has: neither negative nor past the year 5000."""
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


def restored(value: Any, annotation: Any) -> Any:
    """A field's value from plain data, where floats that are not finite are strings. ValueError where it is of another
    kind than the field."""
    if type(value) is str and annotation in FLOATS:
        return float(value)
    kinds = KINDS.get(annotation)
    if kinds is not None and type(value) not in kinds:
        raise ValueError(f"{value!r} is no {annotation}")
    if annotation == "dict[str, float]":
        return {name: restored(number, "float") for name, number in value.items()}
    return value
