"""How runs and checkpoints are written in the cells of a table, and which columns there is room for."""

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
NEEDED = ("name", "status", "step", "validation", "bits", "loss", "age")
WANTED = (*NEEDED, "size", "parameters", "corpus")
"""The columns of the runs, those first that are left out last."""
SHORT_STATUS = len("▶ running…")
LEAST = [
    {"name": 32, "corpus": 12},
    *({"name": name, "status": SHORT_STATUS, "corpus": 12} for name in (32, 24, 16)),
]
"""How far columns may be cut where their texts are longer: the first of these by which all that are needed fit."""
CHECKPOINT_HEADINGS = {
    "step": "step",
    "loss": "loss",
    "validation": "val",
    "bits": "bits/B",
    "kept": "kept as",
    "checked": "checked",
    "size": "size",
}
CHECKPOINT_WANTED = ("step", "kept", "validation", "bits", "checked", "size", "loss")


class RunRows:
    """The rows of all runs. The cells of a row that looks as before are the very objects of before."""

    def __init__(self) -> None:
        self._whole: dict[str, tuple[RunSummary, tuple[str, str, int], list[Text], list[int]]] = {}
        """By the name of a run: what its cells were made from, the cells, and their widths."""
        self._cut: dict[str, tuple[list[Text], dict[str, int], list[Text]]] = {}
        """By the name of a run: its whole cells, the columns there are, and the cells that stand in them."""

    def forget_all_but(self, names: set[str]) -> None:
        self._whole = {name: known for name, known in self._whole.items() if name in names}
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
        """The rows and columns that fit into `room`. `rows` has every run with the branch drawn before its name,
        `marked` the names of those with a number. The column that orders the table is there in any case."""
        places = {name: place for place, name in enumerate(marked, 1)}
        whole = [self._cells(row, branch, places.get(row.name, 0), now) for row, branch in rows]
        labels = HEADINGS | {sort_by: f"{HEADINGS[sort_by]} {'▲' if backwards else '▼'}"}
        natural = _natural(labels, (lengths for _, lengths in whole))
        widths: dict[str, int] = {}
        for least in LEAST:
            widths = widths_that_fit(natural, room, dict.fromkeys(("name", sort_by, *WANTED)), least)
            if widths.keys() >= {*NEEDED}:
                break
        headings = [Heading(key, labels[key], width) for key, width in widths.items()]
        return [
            (row.name, self._fitted(row.name, cells, widths)) for (row, _), (cells, _) in zip(rows, whole, strict=True)
        ], headings

    def _cells(self, row: RunSummary, branch: str, place: int, now: float) -> tuple[list[Text], list[int]]:
        look = (branch, format_age(now - row.touched), place)
        known = self._whole.get(row.name)
        if known is None or known[0] is not row or known[1] != look:
            cells = run_cells(row, now, branch, place)
            known = self._whole[row.name] = (row, look, cells, [cell.cell_len for cell in cells])
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


def checkpoint_table(rows: Sequence[Row], room: int) -> tuple[list[Row], list[Heading]]:
    """The rows of checkpoints (with all cells) in the columns that fit into `room`."""
    natural = _natural(CHECKPOINT_HEADINGS, ([cell.cell_len for cell in cells] for _, cells in rows))
    widths = widths_that_fit(natural, room, CHECKPOINT_WANTED, {})
    places = [place for place, key in enumerate(CHECKPOINT_HEADINGS) if key in widths]
    headings = [Heading(key, CHECKPOINT_HEADINGS[key], width) for key, width in widths.items()]
    return [(key, [cells[place] for place in places]) for key, cells in rows], headings


def _natural(labels: dict[str, str], lengths: Iterable[Sequence[int]]) -> dict[str, int]:
    """How wide every column is where nothing is cut."""
    longest = [max(column) for column in zip([len(label) for label in labels.values()], *lengths, strict=True)]
    return dict(zip(labels, longest, strict=True))


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
        Text(format_age(now - row.touched).rjust(4) if row.touched else ""),
        Text(format_count(row.parameters).rjust(6) if row.parameters else ""),
        Text(format_size(row.size_bytes).rjust(7)),
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
        Text(format_size(info.size_bytes).rjust(7)),
    ]


def _measured(value: float | None) -> Text:
    if value is None:
        return Text("")
    return Text(f"{value:6.3f}" if 0.01 <= abs(value) < 100 else format_number(value).rjust(6))


def details_of(row: RunSummary, now: float, widths: Mapping[str, int]) -> Content:
    """What the table, whose columns have these widths, does not show, or not whole."""
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
    ]
    return Content("\n").join(Content.assemble((f"{label} ", "dim"), clean(text)) for label, text in lines if text)
