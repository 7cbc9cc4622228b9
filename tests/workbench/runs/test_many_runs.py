"""Many runs: all are listed, the keys do what they do, and nothing that did not change is read again.

What is read is counted by Python's audit events, not timed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm.run import Run
from tests.workbench.runs.screen_for_tests import RunsApp, names
from tests.workbench.runs_for_tests import make_run, step_logged
from tests.workbench.waiting import shown, until
from workbench.runs.catalog import RunCatalog
from workbench.runs.screen import RunsScreen

MANY = pytest.mark.parametrize("many", [150, pytest.param(3000, marks=pytest.mark.slow)], indirect=True)
_heard: list[list[str]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _heard:
        _heard[-1].append(str(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def opened_files(home: Path) -> Iterator[set[str]]:
    """The names of the runs below `home` of which a file is opened in the block."""
    runs: set[str] = set()
    paths: list[str] = []
    _heard.append(paths)
    try:
        yield runs
    finally:
        _heard.pop()
        below = f"{home / 'runs'}/"
        runs |= {path.removeprefix(below).partition("/")[0] for path in paths if path.startswith(below)}


@pytest.fixture
def many(tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """The names of many finished runs, `run-0000` and so on, below `tmp_path`."""
    first = make_run(tmp_path, "run-0000", steps=3)
    names = [f"run-{number:04d}" for number in range(request.param)]
    for name in names[1:]:
        shutil.copytree(first.path, first.path.with_name(name))
    return names


@MANY
def test_each_is_read_once_and_again_only_when_it_changed(many: list[str], tmp_path: Path) -> None:
    catalog = RunCatalog(tmp_path)
    with opened_files(tmp_path) as read:
        assert len(catalog.refresh()) == len(many)
    assert len(read) == len(many)
    with opened_files(tmp_path) as read:
        assert len(catalog.refresh()) == len(many)
    assert read == set()
    log = Run.open(tmp_path, "run-0123").log()
    log.append(step_logged(4, 0.5))
    log.close()
    with opened_files(tmp_path) as read:
        assert {row.name: row.step for row in catalog.refresh()}["run-0123"] == 4
    assert read == {"run-0123"}
    with opened_files(tmp_path) as read:
        assert len(RunCatalog(tmp_path).refresh()) == len(many)
    assert read <= {"run-0123"}, "another workbench knows them from the cache"


@MANY
async def test_the_table_holds_them_all_and_the_keys_work(many: list[str], tmp_path: Path) -> None:
    app = RunsApp(tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await until(pilot, lambda: len(names(screen)) == len(many))
        await pilot.press("s", "G")
        await until(pilot, lambda: screen.runs_table.current == many[-1] and many[-1] in shown(screen))
        await pilot.press("k", "space", "g", "j")
        await until(pilot, lambda: screen.runs_table.current == "run-0001" and screen.runs_table.marked == [many[-2]])
        await pilot.press("slash", *"-012", "enter")
        await until(pilot, lambda: names(screen) == [f"run-012{digit}" for digit in range(10)])
        await pilot.press("escape")
        await until(
            pilot,
            lambda: len(names(screen)) == len(many) and screen.checkpoint_table.run_name == screen.runs_table.current,
        )
        here = screen.runs_table.current
        with Run.open(tmp_path, "run-0077").lock():
            await until(pilot, lambda: "running here" in {row.status for row in screen.runs_table.summaries})
            with opened_files(tmp_path) as read:
                before = screen.runs_table.summaries
                await until(pilot, lambda: screen.runs_table.summaries is not before)
                between = screen.runs_table.summaries
                await until(pilot, lambda: screen.runs_table.summaries is not between)
            assert read <= {here, "run-0077"}, "only the one in training, and the one whose checkpoints are listed"
