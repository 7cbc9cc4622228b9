"""How a run is told on stderr."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console

from llm.events import Evaluated, Event, Finished, Progress, Sampled, Started, StepLogged, Warned
from workbench.commands.progress import LiveReporter, PlainReporter, ProgressReporter, step_line


class Clock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def started() -> Started:
    shape = {"total_steps": 100, "parameters": 1234, "tokens_per_step": 64}
    where = {"device": "cpu", "precision": "fp32", "threads": 1, "compiled": False, "pid": 1, "host": "here"}
    return Started(step=0, **shape | where)


def step(number: int, mfu: float | None = None) -> StepLogged:
    speed = {"step_ms": 12.0, "tokens_per_second": 5333.0, "total_flops": 1.25e15 * number, "mfu": mfu}
    values = {"tokens_seen": 64 * number, "loss": 2.5, "lr": 1e-3, "lr_multiplier": 0.5, "grad_norm": 0.75}
    return StepLogged(step=number, **values | speed)


def a_run() -> Iterator[Event]:
    yield Progress(stage="Tokenizing", done=1, total=4, unit="MB")
    yield Progress(stage="Tokenizing", done=2, total=4, unit="MB")
    yield started()
    yield step(1)
    yield step(2, mfu=0.4)
    yield Evaluated(
        step=2, validation_loss=2.25, perplexity=9.49, bits_per_byte=1.5, tokens=10, best=True, train_loss=1.75
    )
    yield Sampled(step=2, prompt="Once", text=" \x1b[2J[red]upon\n")
    yield Warned(step=2, message="not saved: disk full")
    yield Finished(step=2, status="stopped", reason="asked to stop")


def live(screen: io.StringIO) -> LiveReporter:
    """The narrator of a terminal of 200 columns without colours."""
    return LiveReporter(Console(file=screen, force_terminal=True, width=200, color_system=None, _environ={}), Clock())


def test_plain_lines() -> None:
    lines: list[str] = []
    with PlainReporter(lines.append, Clock()) as reporter:
        for event in a_run():
            reporter.report(event)
    text = "\n".join(lines)
    assert text.count("Tokenizing") == 1
    assert (
        "step 1/100 (1.00%) | loss 2.5000 | grad norm 0.750 | lr 1.00e-03 ×0.50 | 12.0 ms/step | 5,333 tok/s | "
        "total 0s, 1.25e+15 FLOPs" in text
    )
    assert "step 2/100" not in text, "within five seconds of the line before"
    assert "validation loss 2.250, 1.500 bits/byte, training loss 1.750, best so far" in text
    assert "Once ␛[2J[red]upon␊" in text
    assert "not saved: disk full" in text
    assert "stopped: asked to stop" in text


def test_plain_steps_come_every_few_seconds_and_at_the_end() -> None:
    lines: list[str] = []
    clock = Clock()
    reporter: ProgressReporter = PlainReporter(lines.append, clock)
    reporter.report(started())
    for number in range(1, 101):
        clock.now += 0.5
        reporter.report(step(number, mfu=0.4))
    steps = [int(line.split()[1].split("/")[0]) for line in lines if "| loss" in line]
    assert steps == [*range(1, 100, 10), 100]
    assert "mfu 40.0%" in lines[-1]


def test_live_line_with_bar_and_news_above() -> None:
    screen = io.StringIO()
    with live(screen) as reporter:
        for event in a_run():
            reporter.report(event)
    text = screen.getvalue()
    assert step_line(step(1), 100) in text, "the same line as without a terminal"
    assert step_line(step(2, 0.4), 100) not in text, "and as seldom"
    assert "validation loss 2.25" in text
    assert "Once ␛[2J[red]upon␊" in text, "cleaned, and markup is only text"
    assert "Tokenizing" in text
    assert "training" in text
    assert "step 1 · loss 2.5000" in text


def test_after_an_evaluation_the_bar_is_that_of_the_training_again() -> None:
    screen = io.StringIO()
    with live(screen) as reporter:
        reporter.report(started())
        reporter.report(step(1))
        reporter.report(Progress(stage="Evaluating", done=40, total=80, unit="tokens", step=2))
        evaluating = screen.getvalue()
        reporter.report(step(3))
    assert "Evaluating" in evaluating and "50% (40 of 80 tokens)" in evaluating
    after = screen.getvalue().removeprefix(evaluating)
    assert "3% · step 3" in after and "training" in after and "Evaluating" not in after


def test_a_failure_is_left_to_its_error() -> None:
    lines: list[str] = []
    PlainReporter(lines.append, Clock()).report(Finished(step=0, status="failed", reason="no such corpus"))
    assert lines == []
