"""Signals and the loss of the terminal end the workbench whatever it is doing, and lose no run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm.config import from_mapping, to_mapping, to_toml
from llm.events import Finished, Started
from llm.run import Run, list_runs
from tests.conftest import tiny_config
from tests.workbench.soak import end_trainers
from tests.workbench.terminal_for_tests import PseudoTerminal, Terminal

WITH_TERMINAL = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
WITHOUT_SIGNALS = "import sys\n"  # the kernel sends SIGHUP only to whom the terminal controls
BUSY = """
import time
from workbench.base_app import BaseApp
def work_for_ever(app):
    print("BUSY", file=sys.__stdout__, flush=True)
    while True:
        time.sleep(0.001)
BaseApp.repaint_windows_between = work_for_ever
"""
"""The event loop comes to an end after a second."""
WAITING = """
import time
from workbench.base_app import BaseApp
from workbench.app import WorkbenchApp
def wait_for_ever(app):
    app.run_worker(lambda: (print("BUSY", file=sys.__stdout__, flush=True), time.sleep(1000)), thread=True)
BaseApp.repaint_windows_between = wait_for_ever
"""
"""A thread waits for something that does not come, as a file system that has gone away."""
SLOWLY = """
import time
import llm.training.run
def prepare_for_ever(run, home, **arguments):
    with run.lock():
        print("BUSY", file=sys.__stdout__, flush=True)
        time.sleep(1000)
llm.training.run.run_training = prepare_for_ever
"""
"""A run is being prepared, and does not hear that it is to stop."""
RUN = "from workbench.cli import main\nsys.exit(main(['--home', sys.argv[1]]))"
ENOUGH_SECONDS = 90.0
"""Five are promised, on a machine that does nothing else."""


@pytest.fixture
def open_home(home: Path, corpus: Path) -> Iterator[Callable[[str], PseudoTerminal]]:
    """Opens a program on a home whose only preset of a person's own is a tiny model that trains for long."""
    long = to_mapping(tiny_config(corpus))
    long["train"]["steps"] = 1_000_000
    (home / "presets").mkdir()
    (home / "presets" / "zz-tiny.toml").write_text(to_toml(from_mapping(long)), encoding="utf-8")
    opened: list[PseudoTerminal] = []

    def open(start: str) -> PseudoTerminal:
        opened.append(PseudoTerminal(home, start=start))
        return opened[-1]

    yield open
    for terminal in opened:
        terminal.close()
    end_trainers(home)


def read_until(terminal: PseudoTerminal, text: bytes, seconds: float = 120.0) -> None:
    limit, output = time.monotonic() + seconds, b""
    while text not in output:
        assert time.monotonic() < limit, output[-500:]
        data = terminal.read_bytes(0.1)
        assert data is not None, output[-500:]
        output += data


def rest_of(terminal: PseudoTerminal) -> bytes:
    """What is written until the program ends."""
    output, limit = b"", time.monotonic() + ENOUGH_SECONDS
    while time.monotonic() < limit:
        data = terminal.read_bytes(0.1)
        if data is None or (not data and terminal.process.poll() is not None):
            return output
        output += data
    raise AssertionError("the program does not end")


@pytest.mark.parametrize("state", [BUSY, WAITING], ids=["busy", "waiting"])
def test_sigterm_ends_it_and_gives_the_terminal_back(open_home: Callable[[str], PseudoTerminal], state: str) -> None:
    terminal = open_home(WITH_TERMINAL + state + RUN)
    read_until(terminal, b"BUSY")
    terminal.process.send_signal(signal.SIGTERM)
    assert b"\x1b[?1049l" in rest_of(terminal)
    assert terminal.process.wait(ENOUGH_SECONDS) == 128 + signal.SIGTERM


def test_sigterm_ends_it_where_the_terminal_takes_nothing(open_home: Callable[[str], PseudoTerminal]) -> None:
    """As when Ctrl-S was pressed, or a connection hangs: nothing is read of what it draws."""
    terminal = open_home(WITH_TERMINAL + RUN)
    read_until(terminal, b"quickstart")
    for size in range(60, 200):
        terminal.set_size(size, 50)
        time.sleep(0.02)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(ENOUGH_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.parametrize("state", [BUSY, WAITING], ids=["busy", "waiting"])
@pytest.mark.parametrize("terminal_of", [WITH_TERMINAL, WITHOUT_SIGNALS], ids=["hung up", "unsaid"])
def test_a_lost_terminal_ends_it(open_home: Callable[[str], PseudoTerminal], state: str, terminal_of: str) -> None:
    terminal = open_home(terminal_of + state + RUN)
    read_until(terminal, b"BUSY")
    os.close(terminal.fd)
    assert terminal.process.wait(ENOUGH_SECONDS) == 128 + signal.SIGHUP


def test_what_was_being_prepared_is_prepared_on(open_home: Callable[[str], PseudoTerminal], home: Path) -> None:
    terminal = open_home(WITH_TERMINAL + SLOWLY + RUN)
    read_until(terminal, b"quickstart")
    terminal.type(b"G")
    read_until(terminal, b"A model small enough")
    terminal.type(b"\r")
    read_until(terminal, b"BUSY")
    os.close(terminal.fd)
    assert terminal.process.wait(ENOUGH_SECONDS) == 128 + signal.SIGHUP
    (run,) = list_runs(home)
    assert pid_of_trainer(run) != terminal.process.pid


def test_a_training_is_saved_and_continues_though_the_loop_answers_nothing(
    open_home: Callable[[str], PseudoTerminal], home: Path
) -> None:
    on_request = BUSY.replace(
        "def work_for_ever(app):", "def work_for_ever(app):\n    if not app.training.live: return"
    )
    on_request = on_request.replace("app.training.live", "app.training.live_model('zz-tiny-1')")
    terminal = open_home(WITH_TERMINAL + on_request + RUN)
    read_until(terminal, b"quickstart")
    terminal.type(b"G")
    read_until(terminal, b"A model small enough")
    terminal.type(b"\r")
    read_until(terminal, b"BUSY")
    os.close(terminal.fd)
    assert terminal.process.wait(120) == 128 + signal.SIGHUP
    run = Run.open(home, "zz-tiny-1")
    assert pid_of_trainer(run) != terminal.process.pid
    assert any(isinstance(event, Finished) and event.status == "stopped" for event in run.events())


def pid_of_trainer(run: Run) -> int:
    """The process that trains the run, once it has begun to."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        begun = [event for event in run.events() if isinstance(event, Started)]
        holder = run.holder()
        if begun and holder is not None and begun[-1].pid == holder.pid:
            return holder.pid
        time.sleep(0.1)
    raise AssertionError("nobody trains it")


def test_a_widget_that_fails_keeps_the_app(home: Path) -> None:
    """An error in a handler, in real use: it is shown, its traceback is in the log, and the keys work."""
    fails = """
import workbench.runs.screen
def fail(screen):
    raise LookupError("of the test")
workbench.runs.screen.RunsScreen.on_mount = fail
"""
    terminal = Terminal(home, start=WITH_TERMINAL + fails + RUN)
    try:
        terminal.until_shown("quickstart")
        terminal.type(b"3")
        terminal.until_shown("Something went wrong here (LookupError)")
        log = (home / "workbench.log").read_text()
        assert "LookupError: of the test" in log
        assert log.count("Traceback (most recent call last)") == 1
        terminal.type(b"5")
        terminal.until_shown("stories", "pylib")
        terminal.type(b"\x11")
        assert terminal.exit_status() == 0
    finally:
        terminal.close()
