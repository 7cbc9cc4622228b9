"""`bench cost`: each part has a number for each of its sizes, and the plots show all parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.bench import cost
from workbench.cli import main


def test_the_result_is_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, sizes in (("WIDTHS", (32, 64)), ("CONTEXTS", (8, 16)), ("BATCHES", (1,)), ("LOGGED_STEPS", (10, 20))):
        monkeypatch.setattr(cost, name, sizes)
    parts = {name: part for name, part in cost.PARTS.items() if name != "corpus size"}  # it would train a tokenizer
    monkeypatch.setattr(cost, "PARTS", parts)
    output = tmp_path / "cost.json"
    assert main(["bench", "cost", "--rounds", "2", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert [each["size"] for each in result["context"]["seconds"]] == [8, 16]
    assert all(each["median"] > 0 for part in parts for each in result[part]["seconds"])
    pytest.importorskip("matplotlib")
    from docs.cost_plots import draw

    draw(result, tmp_path / "cost.svg")
    picture = (tmp_path / "cost.svg").read_text()
    assert all(f">{part}</text>" in picture for part in parts)
