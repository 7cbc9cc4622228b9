"""Events of a run as short sentences."""

from __future__ import annotations

from llm.events import (
    AnswersEvaluated,
    CommandRefused,
    CoreEvaluated,
    Evaluated,
    Event,
    Finished,
    KnobSet,
    MetricsLogged,
    Paused,
    Progress,
    RanksMeasured,
    Resumed,
    RolledBack,
    Sampled,
    Saved,
    Skipped,
    Started,
    StepLogged,
    Warned,
)
from workbench.charts.curves import RunCurves
from workbench.formatting import describe_progress, format_count, format_duration, format_number, format_size


def describe_start(event: Started) -> str:
    """The device of a run, and its number of parameters, tokens and steps."""
    verb = f"resumed after step {event.step:,}" if event.step else "started"
    shape = f"{format_count(event.parameters)} parameters, {event.tokens_per_step:,} tokens a step"
    if event.micro_batch:
        shape += f" in micro-batches of {event.micro_batch}, as many sequences as fit in memory"
    length = f"; {event.total_steps:,} steps, as many as fit in {event.minutes:g} minutes" if event.minutes else ""
    return f"{verb} on {event.device} in {event.precision}, {event.threads} threads: {shape}{length}"


def describe(event: Event) -> str:
    """One line for the event log; "" for events that only change numbers."""
    match event:
        case StepLogged() | RanksMeasured() | Progress():
            return ""
        case Started():
            return describe_start(event)
        case Evaluated():
            best = ", best so far" if event.best else ""
            train = f", training loss {format_number(event.train_loss)}" if event.train_loss is not None else ""
            loss = format_number(event.validation_loss)
            return f"validation loss {loss}, {event.bits_per_byte:.3f} bits/byte{train}{best}"
        case MetricsLogged(is_validation=True):
            return "held-out " + ", ".join(f"{name} {value:.3f}" for name, value in event.metrics.items())
        case MetricsLogged():
            return ""
        case CoreEvaluated():
            return f"CORE {event.core_metric:.4f} over {len(event.tasks)} tasks"
        case AnswersEvaluated():
            kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in event.kinds.items())
            return f"exact answers {event.exact_answers:.1%} of {event.questions:,} questions: {kinds}"
        case Sampled():
            return "sample"
        case Saved():
            return f"saved {event.path} ({format_size(event.size_bytes)})"
        case KnobSet():
            return f"{event.key}: {event.previous} → {event.value}"
        case CommandRefused():
            return f"{event.command} refused: {event.reason}"
        case Skipped():
            return f"step skipped: {event.reason}"
        case RolledBack():
            return f"rolled back to step {event.step:,} from {event.from_step:,}: {event.reason}"
        case Warned():
            return event.message
        case Paused():
            return "paused"
        case Resumed():
            return "resumed"
        case Finished():
            return f"{event.status}{f': {event.reason}' if event.reason else ''}"
    return type(event).__name__


def status_line(curves: RunCurves, *, here: bool) -> str:
    """The state of a run, its parts separated by " · ", most important first; `here`: it trains in this program."""
    name = curves.run.name
    if curves.finished is not None:
        return f"{name} {curves.finished.status} at step {curves.finished.step:,}"
    if curves.progress is not None:
        return f"{name}: {describe_progress(curves.progress)}"
    if curves.last_step is None:
        return f"{name} is starting" if here else f"{name} has ended"
    loss, left = f"loss {format_number(curves.last_step.loss)}", curves.seconds_left
    place = f"{100 * curves.step / curves.total_steps:.0f}%" if curves.total_steps else f"step {curves.step:,}"
    if curves.paused:
        return f"{name} paused at {place} · {loss}"
    return f"{name} {place}" + (f" · {format_duration(round(left))} left" if left is not None else "") + f" · {loss}"
