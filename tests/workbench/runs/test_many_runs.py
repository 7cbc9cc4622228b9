"""Three thousand runs: all are listed, the keys do what they do, and nothing that did not change is read again.

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
from tests.workbench.runs.test_runs_screen import RunsApp, names
from tests.workbench.runs_for_tests import make_run, step_logged
from tests.workbench.waiting import shown, until
from workbench.runs.catalog import RunCatalog
from workbench.runs.screen import RunsScreen

MANY = 3000
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
def many(tmp_path: Path) -> Path:
    """A home of many finished runs, `run-0000` to `run-2999`."""
    first = make_run(tmp_path, "run-0000", steps=3)
    for number in range(1, MANY):
        shutil.copytree(first.path, first.path.with_name(f"run-{number:04d}"))
    return tmp_path


def test_each_is_read_once_and_again_only_when_it_changed(many: Path) -> None:
    catalog = RunCatalog(many)
    with opened_files(many) as read:
        assert len(catalog.refresh()) == MANY
    assert len(read) == MANY
    with opened_files(many) as read:
        assert len(catalog.refresh()) == MANY
    assert read == set()
    log = Run.open(many, "run-1234").log()
    log.append(step_logged(4, 0.5))
    log.close()
    with opened_files(many) as read:
        assert {row.name: row.step for row in catalog.refresh()}["run-1234"] == 4
    assert read == {"run-1234"}
    with opened_files(many) as read:
        assert len(RunCatalog(many).refresh()) == MANY
    assert read <= {"run-1234"}, "another workbench knows them from the cache"


async def test_the_table_holds_them_all_and_the_keys_work(many: Path) -> None:
    app = RunsApp(many)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await until(pilot, lambda: len(names(screen)) == MANY, seconds=120)
        await pilot.press("s", "G")
        await until(pilot, lambda: screen.runs_table.current == "run-2999" and "run-2999" in shown(screen))
        await pilot.press("k", "space", "g", "j")
        await until(pilot, lambda: screen.runs_table.current == "run-0001" and screen.runs_table.marked == ["run-2998"])
        await pilot.press("slash", *"-012", "enter")
        await until(pilot, lambda: names(screen) == [f"run-012{digit}" for digit in range(10)])
        await pilot.press("escape")
        await until(
            pilot, lambda: len(names(screen)) == MANY and screen.checkpoint_table.run_name == screen.runs_table.current
        )
        here = screen.runs_table.current
        with Run.open(many, "run-0777").lock():
            await until(pilot, lambda: "running here" in {row.status for row in screen.runs_table.summaries})
            with opened_files(many) as read:
                before = screen.runs_table.summaries
                await until(pilot, lambda: screen.runs_table.summaries is not before)
                between = screen.runs_table.summaries
                await until(pilot, lambda: screen.runs_table.summaries is not between)
            assert read <= {here, "run-0777"}, "only the one in training, and the one whose checkpoints are listed"
