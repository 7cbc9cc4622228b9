"""The app in a pseudo-terminal: other output stays off the screen, signals save, and neither a lost terminal nor a
killed program loses a training."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm.config import from_mapping, to_mapping, to_toml
from llm.errors import UserError
from llm.events import Finished, Started, StepLogged
from llm.run import Run
from tests.conftest import tiny_config
from tests.workbench.scripted import scripted_run
from tests.workbench.terminal_for_tests import Terminal
from workbench.terminal import log_for
from workbench.train.queue import RunQueue


@pytest.fixture
def tiny_home(home: Path, corpus: Path) -> Path:
    """A home whose last preset is a tiny model that trains for long, and saves every ten steps."""
    long = to_mapping(tiny_config(corpus))
    long["train"]["steps"] = 1_000_000
    (home / "presets").mkdir()
    (home / "presets" / "zz-tiny.toml").write_text(to_toml(from_mapping(long)), encoding="utf-8")
    return home


@pytest.fixture
def open_terminal(tiny_home: Path) -> Iterator[Callable[..., Terminal]]:
    """Opens the app on that home; closed after the test."""
    opened: list[Terminal] = []

    def open(*, forked: bool = True, **environment: str) -> Terminal:
        opened.append(Terminal(tiny_home, environment, forked=forked))
        return opened[-1]

    yield open
    for terminal in opened:
        terminal.close()


@pytest.fixture
def terminal(open_terminal: Callable[..., Terminal]) -> Terminal:
    return open_terminal()


def train_tiny(terminal: Terminal, home: Path) -> Run:
    """Start the last preset, and wait until its keys work; the Presets screen, too, may speak of tokens/s."""
    terminal.until_shown("quickstart")
    terminal.type(b"G")
    terminal.until_shown("A model small enough")
    terminal.type(b"\r")
    terminal.until_shown("tokens/s", "p Pause")
    return Run.open(home, "zz-tiny-1")


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.1)


def begun(run: Run) -> list[Started]:
    return [event for event in run.events() if isinstance(event, Started)]


def last_step(run: Run) -> int:
    return max((event.step for event in run.events() if isinstance(event, StepLogged)), default=0)


def stop(run: Run) -> None:
    """Ask the process that trains the run to stop, and wait until it has."""
    run.send("stop")
    wait_for(lambda: run.holder() is None, "the process did not obey")
    assert isinstance(list(run.events())[-1], Finished)


def test_other_output_stays_off_the_screen_and_sigterm_saves(
    open_terminal: Callable[..., Terminal], tiny_home: Path
) -> None:
    terminal = open_terminal(forked=False)
    run = train_tiny(terminal, tiny_home)
    terminal.process.terminate()
    assert terminal.exit_status() == 128 + signal.SIGTERM
    last = list(run.events())[-1]
    assert isinstance(last, Finished)
    assert last.status == "stopped"
    assert run.checkpoint("last").step == last.step
    assert b"\x1b[?1049l" in terminal.output, "the terminal was not given back"
    assert b"NOISE" not in terminal.output
    log = (tiny_home / "workbench.log").read_text()
    assert "NOISE ON STDOUT" in log
    assert "NOISE ON STDERR" in log


def test_a_lost_terminal_loses_nothing(terminal: Terminal, tiny_home: Path) -> None:
    run = train_tiny(terminal, tiny_home)
    os.close(terminal.fd)  # the kernel sends SIGHUP, as when a window is closed
    assert terminal.process.wait(120) == 128 + signal.SIGHUP
    wait_for(lambda: len(begun(run)) == 2, "nobody carried on")
    first, second = begun(run)
    assert second.pid != first.pid
    assert second.step > 0
    stop(run)


def test_killed_with_a_run_in_its_thread_it_continues_from_the_last_checkpoint(
    open_terminal: Callable[..., Terminal], tiny_home: Path
) -> None:
    terminal = open_terminal()
    run = train_tiny(terminal, tiny_home)
    terminal.until(lambda: len(run.checkpoints()) >= 2)
    terminal.process.kill()
    assert terminal.process.wait(60) == -signal.SIGKILL
    assert run.holder() is None
    assert run.status().name == "crashed"
    saved = run.checkpoint("last").step
    again = open_terminal()
    again.until_shown("quickstart")
    again.type(b"2")
    again.until_shown("zz-tiny-1", "not running", "Resume")
    again.type(b"r")
    again.until(lambda: len(begun(run)) == 2)
    assert begun(run)[1].step == saved
    again.until(lambda: last_step(run) > saved + 10)
    again.until_shown("running")
    again.process.terminate()
    assert again.exit_status() == 128 + signal.SIGTERM


def test_killed_with_a_run_in_a_process_that_run_does_not_notice(terminal: Terminal, tiny_home: Path) -> None:
    run = train_tiny(terminal, tiny_home)
    terminal.type(b"d")
    terminal.until(lambda: len(begun(run)) == 2 and last_step(run) > begun(run)[1].step)
    holder = run.holder()
    assert holder is not None
    assert holder.pid != terminal.process.pid
    terminal.process.kill()
    assert terminal.process.wait(60) == -signal.SIGKILL
    reached = last_step(run)
    wait_for(lambda: last_step(run) > reached + 20, "it did not train on")
    assert run.holder() == holder
    assert len(begun(run)) == 2
    stop(run)


WALK = (
    (b"2", ("old-1", "loss (nats per token)", "who found 300 apples", "r Resume")),
    (b"3", ("old-1", "stopped", "330/600", "Overlay")),
    (b"4", ("No model yet", "esc Browse")),
    (b"\x1b", ("esc Prompt",)),  # out of the prompt, where figures are text
    (b"5", ("stories", "pylib")),
    (b"1", ("quickstart", "parameters")),
)
"""A key, and what the screen it opens must show."""


def walk(terminal: Terminal) -> None:
    terminal.until_shown("quickstart")
    for key, texts in WALK:
        terminal.type(key)
        terminal.until_shown(*texts)


def test_a_walk_through_all_screens_in_16_colors(open_terminal: Callable[..., Terminal], tiny_home: Path) -> None:
    scripted_run(tiny_home, "old-1", 330, end="stopped")
    terminal = open_terminal(TERM="xterm-16color")
    walk(terminal)
    codes = terminal.style_codes()
    hues = {code % 10 for numbers in codes for code in numbers if 31 <= code <= 36 or 91 <= code <= 96}
    assert len(hues) >= 3, "curves and states have colors of their own"
    assert not any(code in (38, 48) for numbers in codes for code in numbers), "more than 16 colors"
    terminal.type(b"\x11")
    assert terminal.exit_status() == 0


def test_a_walk_through_all_screens_without_color(open_terminal: Callable[..., Terminal], tiny_home: Path) -> None:
    scripted_run(tiny_home, "old-1", 330, end="stopped")
    terminal = open_terminal(NO_COLOR="1", COLORTERM="truecolor")
    walk(terminal)
    mixed = terminal.mixed_colors()
    assert mixed
    assert all(len(set(color)) == 1 for color in mixed), "not only greys"
    terminal.type(b"\x11")
    assert terminal.exit_status() == 0


def test_a_storm_of_resizes_down_to_one_cell_while_it_trains(terminal: Terminal, tiny_home: Path) -> None:
    run = train_tiny(terminal, tiny_home)
    for _ in range(3):
        for size in ((1, 1), (200, 60), (3, 2), (79, 5), (20, 80), (2, 1), (160, 50), (80, 24)):
            terminal.set_size(*size)
            terminal.read(0.02)
    terminal.until_shown("zz-tiny-1", "tokens/s", "p Pause")
    for key, texts in ((b"1", ("zz-tiny", "Model ")), (b"3", ("zz-tiny-1",)), (b"2", ("loss (nats",))):
        terminal.set_size(1, 1)
        terminal.type(key)
        terminal.read(0.3)
        terminal.set_size(80, 24)
        terminal.until_shown(*texts)
    terminal.process.terminate()
    assert terminal.exit_status() == 128 + signal.SIGTERM
    assert run.checkpoint("last").step == list(run.events())[-1].step  # type: ignore[attr-defined]


def test_a_terminal_that_shrank_and_grew_back_at_once_is_painted_again(terminal: Terminal) -> None:
    """The app sees only the last size, which it had before."""
    texts = ("cs336-assignment", "Model ", "q Quit")
    terminal.until_shown(*texts)
    for _ in range(5):  # until the rest is drawn
        terminal.read(0.1)
    terminal.set_size(3, 2)
    terminal.set_size(80, 24)
    assert not any(terminal.shows(text) for text in texts)
    terminal.until(lambda: all(terminal.shows(text) for text in texts), seconds=10)


def test_a_terminal_that_cannot_be_drawn_on_is_reported(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(TERM="dumb")
    assert terminal.exit_status() == 2
    assert b"(TERM=dumb); use a command instead" in terminal.output


def test_a_color_system_that_does_not_exist_is_a_sentence(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(TEXTUAL_COLOR_SYSTEM="foo")
    assert terminal.exit_status() == 2
    assert b"TEXTUAL_COLOR_SYSTEM is 'foo'; set it to auto, standard" in terminal.output


@pytest.fixture
def read_only_home(tiny_home: Path) -> Iterator[Path]:
    """The home with one finished run, on a file system that refuses to be written to."""
    RunQueue(tiny_home).add(scripted_run(tiny_home, "old-1", 60, end="stopped"))
    place = str(tiny_home)
    if subprocess.run(["mount", "--bind", place, place], capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        yield tiny_home
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_one_can_look_around_in_a_home_that_cannot_be_written(
    read_only_home: Path, open_terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    terminal = open_terminal(TMPDIR=str(tmp_path))
    terminal.until_shown("quickstart", "parameters")
    terminal.type(b"\r")
    terminal.until_shown("cannot be created")
    terminal.type(b"3")
    terminal.until_shown("old-1", "■ stopped")
    terminal.type(b"w")
    terminal.until_shown("The next run starts when")
    for key in (b"J", b"d"):
        terminal.type(key)
        terminal.until_shown("the queue in")
    terminal.type(b"q")
    terminal.until_shown("■ stopped")
    for key, text in ((b"x", "The trash is empty"), (b"D", "No prepared data yet")):
        terminal.type(key)
        terminal.until_shown(text)
        terminal.type(b"q")
        terminal.until_shown("■ stopped")
    terminal.type(b"t")
    terminal.until_shown("step 60 of 600")
    terminal.type(b"\x11")
    assert terminal.exit_status() == 0
    (log,) = tmp_path.glob("llm-workbench-*.log")
    assert "NOISE ON STDOUT" in log.read_text()


def test_where_no_log_can_be_written_there_is_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_for(home) == home / "workbench.log"
    (home / "workbench.log").unlink()
    (home / "workbench.log").mkdir()
    elsewhere = log_for(home)
    assert elsewhere.parent == Path(tempfile.gettempdir())
    elsewhere.unlink()
    monkeypatch.setattr(tempfile, "tempdir", str(home / "nowhere"))
    with pytest.raises(UserError, match=r"neither .*workbench\.log nor .* can be written \(.*\); free some space"):
        log_for(home)
    (home / "file").touch()
    with pytest.raises(UserError, match=r"cannot be made .*; choose another place with --home"):
        log_for(home / "file" / "home")
