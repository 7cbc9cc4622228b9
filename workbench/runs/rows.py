"""Table rows of runs and checkpoints, and the choice of columns that fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.content import Content

from llm.run import CheckpointInfo
from workbench.formatting import format_age, format_count, format_number, format_size
from workbench.runs.summaries import RunSummary
from workbench.text import clean, one_line
from workbench.ui.tables import Heading, Row, cut, cut_in_middle, widths_that_fit

STATUS_STYLES = {
    "running here": "green",
    "running elsewhere": "cyan",
    "paused here": "yellow",
    "paused elsewhere": "yellow",
    "crashed": "red",
    "failed": "red",
}
STATUS_SIGNS = {
    "running here": "▶",
    "running elsewhere": "▷",
    "paused here": "‖",
    "paused elsewhere": "‖",
    "finished": "✓",
    "stopped": "■",
    "crashed": "✗",
    "failed": "✗",
    "new": "·",
    "imported": "↓",
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
PROGRESS_SECONDS = 0.2  # between two updates of a progress display
REQUIRED_COLUMNS = ("name", "status", "step", "validation", "bits", "loss", "age")
COLUMN_PRIORITY = (*REQUIRED_COLUMNS, "size", "parameters", "corpus")
"""The columns of runs, the most important first."""
SHORT_STATUS = len("▶ running…")
MIN_WIDTHS = [
    {"name": 32, "corpus": 12},
    *({"name": name, "status": SHORT_STATUS, "corpus": 12} for name in (32, 24, 16)),
]
"""The widths that columns may be cut to. The first set with which all required columns fit is used."""
CHECKPOINT_HEADINGS = {
    "step": "step",
    "loss": "loss",
    "validation": "val",
    "bits": "bits/B",
    "tags": "tags",
    "checked": "checked",
    "size": "size",
}
CHECKPOINT_COLUMN_PRIORITY = ("step", "tags", "validation", "bits", "checked", "size", "loss")


class RunRows:
    """The rows of all runs. An unchanged row keeps its cell objects, so that the table need not redraw it."""

    def __init__(self) -> None:
        self._full: dict[str, tuple[RunSummary, tuple[str, str, int], list[Text], list[int]]] = {}
        """Run name → what its cells were made from, the cells, and their widths."""
        self._cut: dict[str, tuple[list[Text], dict[str, int], list[Text]]] = {}
        """Run name → its full cells, the columns with their widths, and the cells cut to those widths."""

    def keep_only(self, names: set[str]) -> None:
        self._full = {name: known for name, known in self._full.items() if name in names}
        self._cut = {name: known for name, known in self._cut.items() if name in names}

    def table(
        self,
        rows: Sequence[tuple[RunSummary, str]],
        marked: Sequence[str],
        now: float,
        *,
        room: int,
        sort_by: str,
        backwards: bool,
    ) -> tuple[list[Row], list[Heading]]:
        """The rows and columns that fit into `room` cells. `rows` has every run with the tree branch drawn before its
        name, `marked` the names of the marked runs in order. The sorted column is always shown."""
        places = {name: place for place, name in enumerate(marked, 1)}
        full = [self._cells(row, branch, places.get(row.name, 0), now) for row, branch in rows]
        labels = HEADINGS | {sort_by: f"{HEADINGS[sort_by]} {'▲' if backwards else '▼'}"}
        natural = _natural(labels, (lengths for _, lengths in full))
        widths: dict[str, int] = {}
        for least in MIN_WIDTHS:
            widths = widths_that_fit(natural, room, dict.fromkeys(("name", sort_by, *COLUMN_PRIORITY)), least)
            if widths.keys() >= {*REQUIRED_COLUMNS}:
                break
        headings = [Heading(key, labels[key], width) for key, width in widths.items()]
        return [
            (row.name, self._fitted(row.name, cells, widths)) for (row, _), (cells, _) in zip(rows, full, strict=True)
        ], headings

    def _cells(self, row: RunSummary, branch: str, place: int, now: float) -> tuple[list[Text], list[int]]:
        look = (branch, format_age(now - row.touched), place)
        known = self._full.get(row.name)
        if known is None or known[0] is not row or known[1] != look:
            cells = run_cells(row, now, branch, place)
            known = self._full[row.name] = (row, look, cells, [cell.cell_len for cell in cells])
        return known[2], known[3]

    def _fitted(self, name: str, cells: list[Text], widths: dict[str, int]) -> list[Text]:
        known = self._cut.get(name)
        if known is None or known[0] is not cells or known[1] != widths:
            fitted = [
                cut_in_middle(cell, widths[key]) if key == "name" else cut(cell, widths[key], at_start=key == "corpus")
                for key, cell in zip(HEADINGS, cells, strict=True)
                if key in widths
            ]
            known = self._cut[name] = (cells, widths, fitted)
        return known[2]


def checkpoint_columns(rows: Sequence[Row], room: int) -> tuple[list[Row], list[Heading]]:
    """Rows of checkpoints (with all cells), reduced to the columns that fit into `room` cells."""
    natural = _natural(CHECKPOINT_HEADINGS, ([cell.cell_len for cell in cells] for _, cells in rows))
    widths = widths_that_fit(natural, room, CHECKPOINT_COLUMN_PRIORITY, {})
    places = [place for place, key in enumerate(CHECKPOINT_HEADINGS) if key in widths]
    headings = [Heading(key, CHECKPOINT_HEADINGS[key], width) for key, width in widths.items()]
    return [(key, [cells[place] for place in places]) for key, cells in rows], headings


def _natural(labels: dict[str, str], lengths: Iterable[Sequence[int]]) -> dict[str, int]:
    """The widths of the columns if nothing is cut."""
    longest = [max(column) for column in zip([len(label) for label in labels.values()], *lengths, strict=True)]
    return dict(zip(labels, longest, strict=True))


def run_cells(row: RunSummary, now: float, branch: str = "", mark: int = 0) -> list[Text]:
    """The cells of a run, in the order of HEADINGS. `branch` is the tree branch drawn before its name; `mark` is its
    number among the marked runs, 0 if it is not marked."""
    steps = f"{row.step:,}/{row.total_steps:,}" if row.total_steps else ""  # unknown for an unreadable run
    sign = STATUS_SIGNS.get(row.status, " ")
    return [
        Text.assemble((branch, "dim"), (f"●{mark} " if mark else "", "bold"), one_line(row.name), no_wrap=True),
        Text(f"{sign} {row.status}", style=STATUS_STYLES.get(row.status, "")),
        Text(steps),
        _measured(row.loss),
        _measured(row.validation_loss),
        _measured(row.bits_per_byte),
        Text(format_age(now - row.touched).rjust(4) if row.touched else ""),
        Text(format_count(row.parameters).rjust(6) if row.parameters else ""),
        Text(format_size(row.size_bytes).rjust(7)),
        Text(one_line(row.corpus), no_wrap=True),
    ]


def checkpoint_cells(info: CheckpointInfo, check: Text) -> list[Text]:
    """The cells of a checkpoint."""
    metrics = info.metrics
    return [
        Text(f"{info.step:,}"),
        _measured(metrics.get("loss")),
        _measured(metrics.get("validation_loss")),
        _measured(metrics.get("bits_per_byte")),
        Text(" ".join(info.tags), style="bold" if info.best else ""),
        check,
        Text(format_size(info.size_bytes).rjust(7)),
    ]


def damaged_cells(step: int) -> list[Text]:
    """The cells of a checkpoint of which nothing but the step can be read."""
    cells = {"step": Text(f"{step:,}"), "checked": Text("damaged", style="red")}
    return [cells.get(key, Text("")) for key in CHECKPOINT_HEADINGS]


def _measured(value: float | None) -> Text:
    if value is None:
        return Text("")
    return Text(f"{value:6.3f}" if 0.01 <= abs(value) < 100 else format_number(value).rjust(6))


def details_of(row: RunSummary, now: float, widths: Mapping[str, int], damaged: Mapping[int, str]) -> Content:
    """What the table with columns of these widths leaves out or cuts; `damaged` has the reasons by step."""
    left_out = [
        ("status", "status", f"{STATUS_SIGNS.get(row.status, ' ')} {row.status}"),
        ("bits per byte", "bits", "" if row.bits_per_byte is None else format_number(row.bits_per_byte)),
        ("size", "size", format_size(row.size_bytes)),
        ("parameters", "parameters", format_count(row.parameters) if row.parameters else ""),
        ("corpus", "corpus", row.corpus),
    ]
    lines = [(label, text) for label, key, text in left_out if cell_len(text) > widths.get(key, 0)] + [
        ("created", f"{format_age(now - row.created)} ago" if row.created else ""),
        ("on", row.device),
        ("forked from", row.parent),
        ("tags", ", ".join(row.tags)),
        ("ended:", row.reason),
        ("notes:", row.notes),
        ("in", str(row.path)),
        *((f"checkpoint {step}:", reason) for step, reason in sorted(damaged.items())),
    ]
    return Content("\n").join(Content.assemble((f"{label} ", "dim"), clean(text)) for label, text in lines if text)
