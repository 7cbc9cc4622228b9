"""The numbers, the samples and the log lines of the Train screen."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from llm.events import Event, Sampled, StepLogged
from workbench.charts.curves import RunCurves
from workbench.formatting import describe_progress, format_count, format_duration, format_number, format_size
from workbench.text import clean

SIGNS = {
    "preparing": ("○", "$text-accent"),
    "running": ("●", "$text-success"),
    "paused": ("‖", "$text-warning"),
    "ended": ("■", "$foreground-muted"),
    "gone": ("✗", "$text-error"),
}
WORDS = {"none": "", "ended": "not running", "gone": "deleted or moved"}


class Numbers(Static):
    """Name, state, progress and the newest metrics."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("No run yet. Press 1, choose a preset and press Enter.", id=id, markup=False)

    def show(self, curves: RunCurves, state: str, pending: list[str], hint: str = "") -> None:
        """Update all lines; `pending` are commands without an answer yet, `hint` is a suggestion for the next step."""
        width = max(20, self.content_size.width)
        lines = [headline(curves, state, pending, hint), progress_line(curves, width), figures_line(curves, width)]
        self.update(Content("\n").join(lines), layout=False)

    def show_reading(self, name: str, share: float, seconds: float) -> None:
        """A long log is being read; `share` of it is done, which took `seconds`."""
        left = f"  {format_duration(round(seconds / share - seconds))} left" if share > 0 and seconds > 0 else ""
        reading = bar(share, f" reading the log {100 * share:.0f}%{left}", max(20, self.content_size.width))
        self.update(Content("\n").join([Content.styled(clean(name), "bold"), reading, Content("")]), layout=False)


def headline(curves: RunCurves, state: str, pending: list[str], hint: str = "") -> Content:
    sign, style = SIGNS.get(state, ("", ""))
    words = WORDS.get(state, state)
    if state == "ended" and curves.finished is not None:
        words = curves.finished.status
    parts: list[Content | str | tuple[str, str]] = [
        (f"{sign} ", style),
        (clean(curves.run.name), "bold"),
        f"  {words}",
    ]
    if hint:
        parts.append((f"  {hint}", "$text-accent"))
    if pending:
        parts.append((f"  pending: {clean(', '.join(pending))}…", "$text-warning"))
    if curves.started is not None:
        started = curves.started
        place = f"{started.device} {started.precision}{' compiled' if started.compiled else ''}"
        parts.append((f"  {format_count(started.parameters)} parameters on {place}", "$foreground-muted"))
    return Content.assemble(*parts)


def progress_line(curves: RunCurves, width: int) -> Content:
    """A progress bar with the step and the time left, or the stage of the preparation."""
    if curves.progress is not None:
        share = curves.progress.done / curves.progress.total if curves.progress.total else 0.0
        return bar(share, f" {clean(describe_progress(curves.progress))}", width)
    if not curves.total_steps:
        return Content("")
    share = min(1.0, curves.step / curves.total_steps)
    left = curves.seconds_left
    ahead = f"  {format_duration(round(left))} left" if left is not None else ""
    return bar(share, f" {100 * share:.0f}%  step {curves.step:,} of {curves.total_steps:,}{ahead}", width)


def bar(share: float, text: str, width: int) -> Content:
    """A progress bar followed by `text`, in `width` columns; the bar has at most 60."""
    room = max(0, min(60, width - len(text)))
    filled = round(room * min(max(share, 0.0), 1.0))
    return Content.assemble(("━" * filled, "$text-success"), ("─" * (room - filled), "$foreground-muted"), text)


def figures_line(curves: RunCurves, width: int) -> Content:
    """The metrics of the command line's log line, as many as fit into `width` columns."""
    figures: list[tuple[str, str]] = []
    step, best = curves.last_step, curves.best_validation
    if step is not None:
        figures.append(("loss", format_number(step.loss)))
    if len(curves.validation):
        loss = curves.validation["validation_loss"][-1]
        suffix = f" (best {format_number(best)})" if best is not None and best < loss else ""
        figures.append(("validation", format_number(loss) + suffix))
        figures.append(("bits/byte", f"{curves.validation['bits_per_byte'][-1]:.3f}"))
    if len(curves.core):
        figures.append(("CORE", f"{curves.core['core_metric'][-1]:.4f}"))
    if curves.is_reinforced:
        figures.append(("reward", f"{curves.metrics['reward'][-1]:.2f}"))
    if len(curves.answers):
        figures.append(("exact answers", f"{100 * curves.answers['exact_answers'][-1]:.0f}%"))
    if step is not None:
        figures.append(("tokens/s", format_count(step.tokens_per_second, digits=3)))
        figures += rank_figures(curves, step)
        figures.append(("tokens", format_count(step.tokens_seen)))
        figures.append(("time", format_duration(round(step.elapsed))))
        figures.append(("lr", f"{step.lr:.3g}"))
        if step.mfu is not None:
            figures.append(("MFU", f"{100 * step.mfu:.0f}%"))
        if step.memory_bytes and curves.ranks is None:
            figures.append(("memory", format_size(step.memory_bytes)))
        figures.append(("grad norm", f"{step.grad_norm:.3g}"))
        figures.append(("ms/step", f"{step.step_ms:.1f}"))
        figures.append(("lr multiplier", f"{step.lr_multiplier:.2f}"))
        figures.append(("FLOPs", f"{step.total_flops:.3g}"))
    line = Content("")
    for name, value in figures:
        figure = Content.assemble((f"{name} ", "$foreground-muted"), value)
        if line.cell_length + figure.cell_length + 2 > width:
            break
        line = Content.assemble(line, "  ", figure) if line else figure
    return line


def rank_figures(curves: RunCurves, step: StepLogged) -> list[tuple[str, str]]:
    """The figures of a run on several ranks; none for one process."""
    size = curves.started.world_size if curves.started is not None else 1
    if size <= 1:
        return []
    figures = [("per rank", f"{format_count(step.tokens_per_second / size, digits=3)} × {size}")]
    ranks = curves.ranks
    if ranks is None:
        return figures
    memory = sorted(value for value in ranks.memory_bytes.values() if math.isfinite(value))
    rank, share = ranks.slowest
    if rank:
        figures.append(("slowest rank", f"{clean(rank)} (+{share:.0%})"))
        figures.append(("communication", f"{ranks.waiting_share:.0%}"))
    if memory:
        figures.append(("memory per rank", f"{format_size(round(memory[0]))} to {format_size(round(memory[-1]))}"))
    return figures


class SampleView(VerticalScroll):
    """A sample: its prompt and the generated text."""

    def __init__(self, title: str, empty: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.heading = title
        self.empty = empty
        self.border_title = title

    def compose(self) -> ComposeResult:
        yield Static(self.empty, markup=False)

    def show(self, sample: Sampled | None) -> None:
        """Show a sample, or none."""
        text = self.query_one(Static)
        if sample is None:
            self.border_title = self.heading
            text.update(Content(self.empty))
            return
        self.border_title = f"{self.heading}, step {sample.step:,}"
        text.update(Content.assemble((clean(sample.prompt), "bold"), clean(sample.text)))


class Samples(Vertical):
    """The two newest samples. Where only one fits, a key switches between them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "look_at('earlier')", "Previous sample", id="train.other-sample"),
        Binding("enter", "look_at('latest')", "Latest sample", id="train.other-sample"),
    ]

    def compose(self) -> ComposeResult:
        yield SampleView("sample", "no sample yet", id="latest-sample")
        yield SampleView("previous sample", "", id="earlier-sample")

    def show(self, samples: Sequence[Sampled]) -> None:
        """Show the last two samples."""
        self.query_one("#latest-sample", SampleView).show(samples[-1] if samples else None)
        self.query_one("#earlier-sample", SampleView).show(samples[-2] if len(samples) > 1 else None)
        self.set_class(len(samples) > 1, "several")
        if len(samples) < 2:
            self.remove_class("-earlier")
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action != "look_at":
            return True
        has_room_for_one = self.screen.has_class("-narrow") and self.screen.has_class("-short")
        other = "latest" if self.has_class("-earlier") else "earlier"
        return has_room_for_one and self.has_class("several") and parameters == (other,)

    def action_look_at(self, which: str) -> None:
        """Show the earlier or the latest sample."""
        self.set_class(which == "earlier", "-earlier")
        self.refresh_bindings()
        self.call_after_refresh(self.query_one(f"#{which}-sample").focus)


def event_line(event: Event, text: str, style: str, *, clock: bool) -> Text:
    """A line of the log: step and text; with `clock`, the time of day first."""
    at = time.strftime("%H:%M:%S ", time.localtime(event.time)) if clock else ""
    step = getattr(event, "step", None)
    return Text.assemble((at, "dim"), (f"{step:>6,} " if step is not None else "", "bold"), (text, style))
