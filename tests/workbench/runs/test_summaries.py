"""The file that keeps the rows of the table of runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

from workbench.runs.summaries import RunSummary, load_summaries, save_summaries


def test_rows_are_strict_json_for_any_losses(tmp_path: Path) -> None:
    summary = RunSummary("a", tmp_path / "runs" / "a", "failed", loss=math.nan, validation_loss=math.inf, tags=("x",))
    save_summaries(tmp_path, {"a": (((1, 2),), summary)})
    text = (tmp_path / "cache" / "runs.json").read_text()

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    json.loads(text, parse_constant=refuse)
    stamps, again = load_summaries(tmp_path)["a"]
    assert stamps == ((1, 2),)
    assert math.isnan(again.loss or 0.0)
    assert (again.validation_loss, again.bits_per_byte, again.path, again.tags) == (
        math.inf,
        None,
        summary.path,
        ("x",),
    )
