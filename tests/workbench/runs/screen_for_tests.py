"""What the tests of the Runs screen share: the app opened on it, and homes with runs."""

from __future__ import annotations

from pathlib import Path

import workbench.app as app_module
from tests.workbench.runs_for_tests import make_run, save_fake
from tests.workbench.waiting import until, until_true
from workbench.app import WorkbenchApp
from workbench.runs.screen import RunsScreen


class RunsApp(WorkbenchApp):
    """The app, opened on the Runs screen, noting where it is sent."""

    CSS_PATH = Path(app_module.__file__).with_name("app.tcss")
    DEFAULT_MODE = "runs"

    def __init__(self, home, training=None):
        super().__init__(home, training=training)
        self.sent = []

    def open_chat(self, reference):
        self.sent.append(("chat", reference))

    def open_train(self, run_name):
        self.sent.append(("train", run_name))


def names(screen):
    return screen.runs_table.keys


async def opened(pilot, count):
    screen = pilot.app.screen
    assert isinstance(screen, RunsScreen)
    await until_true(lambda: len(names(screen)) == count, f"{count} runs in the table")
    await pilot.pause()
    return screen


def home_with_runs(tmp_path):
    first = make_run(tmp_path, "alpha-1", steps=4, loss=2.0, corpus="pylib")
    save_fake(first, 2, 2.5)
    save_fake(first, 4, 2.0)
    make_run(tmp_path, "beta-1", steps=9, loss=1.0, end="stopped")
    return first


async def select_run(pilot, screen, name):
    """Move the cursor to a run, and wait until its checkpoints are listed."""
    screen.runs_table.select_key(name)
    await until(pilot, lambda: screen.checkpoint_table.run_name == name)
