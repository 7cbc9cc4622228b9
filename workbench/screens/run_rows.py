"""How runs and checkpoints are written in the cells of a table."""

from __future__ import annotations

from rich.text import Text
from textual.content import Content

from llm.run import CheckpointInfo
from workbench.services.summaries import RunSummary
from workbench.text import clean, one_line
from workbench.widgets.axes import compact, number, size

STATUS_STYLES = {"running here": "green", "running elsewhere": "cyan", "crashed": "red", "failed": "red"}
STATUS_SIGNS = {
    "running here": "▶",
    "running elsewhere": "▷",
    "finished": "✓",
    "stopped": "■",
    "crashed": "✗",
    "failed": "✗",
    "new": "·",
    "unreadable": "?",
}
HEADINGS = {
    "name": "run",
    "status": "status",
    "step": "step",
    "loss": "loss",
    "validation": "val",
    "bits": "bits/B",
    "age": "age",
    "parameters": "params",
    "size": "size",
    "corpus": "corpus",
}


def run_cells(row: RunSummary, now: float, branch: str = "", mark: int = 0) -> list[Text]:
    """The cells of a run, in the order of HEADINGS. `branch` is drawn before its name; `mark` is the number under which
    it is marked, 0 where it is not."""
    steps = f"{row.step:,}/{row.total_steps:,}" if row.total_steps else ""  # none is known of one that cannot be read
    sign = STATUS_SIGNS.get(row.status, " ")
    return [
        Text.assemble((branch, "dim"), (f"●{mark} " if mark else "", "bold"), one_line(row.name), no_wrap=True),
        Text(f"{sign} {row.status}", style=STATUS_STYLES.get(row.status, "")),
        Text(steps),
        _measured(row.loss),
        _measured(row.validation_loss),
        _measured(row.bits_per_byte),
        Text(age(now - row.touched).rjust(4) if row.touched else ""),
        Text(compact(row.parameters).rjust(6) if row.parameters else ""),
        Text(size(row.size_bytes).rjust(7)),
        Text(one_line(row.corpus), no_wrap=True),
    ]


def checkpoint_cells(info: CheckpointInfo, check: Text) -> list[Text]:
    """The cells of a checkpoint."""
    kept = [word for word, holds in (("best", info.best), ("last", info.last), ("pinned", info.pinned)) if holds]
    metrics = info.metrics
    return [
        Text(f"{info.step:,}"),
        _measured(metrics.get("loss")),
        _measured(metrics.get("validation_loss")),
        _measured(metrics.get("bits_per_byte")),
        Text(" ".join(kept), style="bold" if info.best else ""),
        check,
        Text(size(info.size_bytes).rjust(7)),
    ]


def _measured(value: float | None) -> Text:
    if value is None:
        return Text("")
    return Text(f"{value:6.3f}" if 0.01 <= abs(value) < 100 else number(value).rjust(6))


def age(seconds: float) -> str:
    """How long ago, in one unit: 5s, 12m, 3h, 9d."""
    seconds = max(0.0, seconds)
    for span, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= span:
            return f"{seconds / span:.0f}{unit}"
    return f"{seconds:.0f}s"


def details_of(row: RunSummary, now: float) -> Content:
    """What the table has no column for."""
    lines = [
        ("created", f"{age(now - row.created)} ago" if row.created else ""),
        ("on", row.device),
        ("forked from", row.parent),
        ("tags", ", ".join(row.tags)),
        ("ended:", row.reason),
        ("notes:", row.notes),
        ("in", str(row.path)),
    ]
    return Content("\n").join(Content.assemble((f"{label} ", "dim"), clean(text)) for label, text in lines if text)
