"""The metrics of an event, by the names that the events and `--json` use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from llm.events import AnswersEvaluated, CoreEvaluated, Evaluated, Event, MetricsLogged, Skipped, StepLogged

MEASURED = (StepLogged, Evaluated, CoreEvaluated, Skipped)
OMITTED = frozenset({"step", "time", "elapsed", "tokens"})


@dataclass(frozen=True)
class Row:
    """Metrics of one step; `time` in Unix seconds. NaN and infinite values stay as they are."""

    step: int
    time: float
    metrics: dict[str, float]


def row_of(event: Event) -> Row | None:
    """The numbers of an event that measures something; None for any other."""
    if isinstance(event, MetricsLogged):
        prefix = "validation_" if event.is_validation else ""
        return Row(event.step, event.time, {prefix + name: value for name, value in event.metrics.items()})
    if isinstance(event, AnswersEvaluated):
        kinds = {f"exact_answers_{kind}": share for kind, share in event.kinds.items()}
        return Row(event.step, event.time, {"exact_answers": event.exact_answers} | kinds)
    if not isinstance(event, MEASURED):
        return None
    values = {item.name: getattr(event, item.name) for item in fields(event) if item.name not in OMITTED}
    numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
    return Row(event.step, event.time, numbers)
