"""Charts and screens as files."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tests.workbench.opening import app_with
from tests.workbench.scripted import loss_at, scripted_run
from tests.workbench.waiting import shown, until
from workbench.charts.chart_data import ChartData, Series
from workbench.charts.export import free_path, table
from workbench.ui.palette import screen_commands


def exports(home: Path) -> list[str]:
    folder = home / "exports"
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


def test_a_table_has_a_row_for_every_x_and_gaps_where_nothing_was_measured() -> None:
    data = ChartData()
    x = np.array([1.0, 2.0, 4.0])
    train = Series("train", x, np.array([0.5, np.nan, 0.25]))
    data.replace([train, Series("validation", np.array([2.0]), np.array([0.75]), kind="points")], [], [])
    rows = list(csv.reader(table(data, "step", 0.0).splitlines()))
    assert rows == [["step", "train", "validation"], ["1", "0.5", ""], ["2", "nan", "0.75"], ["4", "0.25", ""]]
    heading = table(data, "step", 0.5).splitlines()[0]
    assert heading == "step,train,train (smoothing 0.5),validation"


def test_names_of_files_are_plain_and_never_taken_twice(home: Path) -> None:
    first = free_path(home, "../a run/loss \x1b", ".csv")
    assert first == home / "exports" / "a-run-loss.csv"
    first.touch()
    assert free_path(home, "a run/loss", ".csv").name == "a-run-loss-2.csv"


async def test_a_chart_is_saved_as_table_and_as_picture(home: Path) -> None:
    scripted_run(home, "old-1", 120, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(160, 40), notifications=True) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "step 120 of 600" in shown(app.screen))
        await pilot.press("w")
        await until(pilot, lambda: "old-1-loss.csv" in exports(home) and "saved" in shown(app.screen))
        app.screen.query_one("#lr-chart").focus()
        await pilot.press("W")
        await until(pilot, lambda: "old-1-learning-rate.svg" in exports(home))
        commands = {command.title: command for command in screen_commands(app.screen)}
        await commands["Save as picture (SVG)"].callback()  # type: ignore[misc]
        await until(pilot, lambda: "old-1-learning-rate-2.svg" in exports(home))
        await pilot.press("f9")
        await until(pilot, lambda: "train.svg" in exports(home))
    rows = list(csv.DictReader((home / "exports" / "old-1-loss.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 120
    assert float(rows[59]["train"]) == loss_at(60)
    assert [row["step"] for row in rows if row["validation"]] == ["100"]
    for name in ("old-1-learning-rate.svg", "train.svg"):
        text = (home / "exports" / name).read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "learning" in (home / "exports" / "old-1-learning-rate.svg").read_text(encoding="utf-8")
