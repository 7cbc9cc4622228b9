"""The app on a disk that is full: what cannot be saved keeps training, and every exit status is true."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm.config import from_mapping, to_mapping, to_toml
from llm.events import CommandRefused, Event, Finished, StepLogged
from llm.run import Run
from tests.conftest import tiny_config
from tests.workbench.terminal_for_tests import START, Terminal


@pytest.fixture
def small_home(tmp_path: Path, corpus: Path) -> Iterator[Path]:
    """A home on a file system of its own, whose last preset trains for long and saves only when it ends."""
    home = tmp_path / "small"
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(home)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        long = to_mapping(tiny_config(corpus))
        long["train"]["steps"] = 1_000_000
        long["checkpoint"]["every"] = long["evaluate"]["every"] = 0
        long["train"]["log_every"] = 50  # so that what is left of the disk holds the log, however fast the machine
        (home / "presets").mkdir()
        (home / "presets" / "zz-tiny.toml").write_text(to_toml(from_mapping(long)), encoding="utf-8")
        yield home
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.fixture
def terminal(small_home: Path) -> Iterator[Terminal]:
    soon = "import workbench.shutdown; workbench.shutdown.SECONDS_BETWEEN_SAVES = 1.0\n"
    opened = Terminal(small_home, {"TMPDIR": str(small_home.parent)}, soon + START)
    yield opened
    opened.close()


def train_without_room(terminal: Terminal, home: Path) -> Run:
    """Begin to train, and then fill the disk but for what the event log needs."""
    terminal.until_shown("quickstart")
    terminal.type(b"G")
    terminal.until_shown("A model small enough")
    terminal.type(b"\r")
    terminal.until_shown("tokens/s", "p Pause")
    with (home / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            os.truncate(file.fileno(), os.fstat(file.fileno()).st_size - (96 << 10))
    return Run.open(home, "zz-tiny-1")


def events(run: Run, kind: type[Event]) -> list[Event]:
    return [event for event in run.events() if isinstance(event, kind)]


def refusals(run: Run, count: int) -> Callable[[], bool]:
    return lambda: len(events(run, CommandRefused)) >= count


def ask_to_quit(terminal: Terminal, *texts: str) -> None:
    """Press ctrl+q until the question with `texts` is shown: the app ignores it while it still shows a save."""
    terminal.until_shown_after(b"\x11", "is still training.", *texts)


def goes_on(terminal: Terminal, run: Run) -> None:
    """Wait for more steps, taken by this app still."""
    taken = len(events(run, StepLogged))
    terminal.until(lambda: len(events(run, StepLogged)) > taken)
    holder = run.holder()
    assert holder is not None and holder.pid == terminal.process.pid


def test_neither_quitting_nor_handing_over_loses_what_cannot_be_saved(terminal: Terminal, small_home: Path) -> None:
    run = train_without_room(terminal, small_home)
    terminal.type(b"d")
    terminal.until(refusals(run, 1))
    goes_on(terminal, run)
    ask_to_quit(terminal, "Quit without saving")
    terminal.type(b"\r")
    terminal.until(refusals(run, 2))
    goes_on(terminal, run)
    (small_home / "ballast").unlink()
    ask_to_quit(terminal)
    terminal.type(b"\r")
    assert terminal.exit_status() == 0
    last = events(run, Finished)[-1]
    assert isinstance(last, Finished) and last.status == "stopped"
    assert run.checkpoint().step == last.step


def test_sigterm_that_could_not_save_is_no_success(terminal: Terminal, small_home: Path) -> None:
    run = train_without_room(terminal, small_home)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.exit_status() == 1
    assert b"could not be saved (No space left on device), and it has no checkpoint" in terminal.output
    assert run.holder() is None and run.checkpoints() == []


def test_one_may_quit_without_saving(terminal: Terminal, small_home: Path) -> None:
    run = train_without_room(terminal, small_home)
    ask_to_quit(terminal)
    terminal.type(b"\r")
    terminal.until(refusals(run, 1))
    ask_to_quit(terminal, "Quit without saving")
    terminal.type(b"\x1b[B\x1b[B\x1b[B\r")
    assert terminal.exit_status() == 0
    last = events(run, Finished)[-1]
    assert isinstance(last, Finished) and last.status == "stopped" and run.checkpoints() == []


def test_a_lost_terminal_without_room_keeps_training_until_it_can_be_saved(
    terminal: Terminal, small_home: Path
) -> None:
    run = train_without_room(terminal, small_home)
    os.close(terminal.fd)
    wait_until(refusals(run, 1))
    assert terminal.process.poll() is None
    (small_home / "ballast").unlink()
    assert terminal.process.wait(120) == 128 + signal.SIGHUP
    wait_until(lambda: (holder := run.holder()) is not None and holder.pid != terminal.process.pid)
    run.send("stop")
    wait_until(lambda: run.holder() is None)
    assert run.checkpoints()


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)
