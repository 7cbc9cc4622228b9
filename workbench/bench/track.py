"""`llm-workbench bench track`: the cost of tracking quickstart.

Two runs of two minutes differ by more than the cost, so it is measured in two parts. Start: seconds of the first steps
with and without `--track`, in alternating pairs, while the trackers are imported. Training: steps per second of one run
in windows of time. In every other window the process of the trackers is suspended; afterwards it catches up, so that
all of its work is in the windows between.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import psutil

from llm.config.overrides import Overrides
from llm.errors import UserError
from llm.events import StepLogged
from llm.run import Run
from workbench.bench.report import Result, Stats, alternate, machine, spread
from workbench.bench.ui import new_run

PRESET = "quickstart"
DEFAULT_TRACKERS = ("tensorboard", "trackio", "csv")
START_STEPS = 40
WINDOW_SECONDS = 5.0
TRAINING_SECONDS = 120.0
"""Of a whole run of quickstart, to which the seconds lost at the start are compared."""


class Window(NamedTuple):
    """A window of time, in seconds since the epoch."""

    begin: float
    end: float


def measure(home: Path, trackers: Sequence[str], pairs: int, overrides: Overrides) -> Result:
    """Seconds until step `START_STEPS` without and with trackers, their difference, and the ratio of steps per second
    with trackers at work to those without."""
    fields = [word for path, text in overrides for word in (f"--{path}", text)]
    short = [*fields, "--train.minutes", "0", "--train.steps", str(START_STEPS)]
    track = ["--track", ",".join(trackers)]
    first_steps(home, short)  # prepares the data
    plain: list[float] = []
    tracked: list[float] = []
    for seconds, options in alternate(((plain, []), (tracked, track)), pairs):
        seconds.append(first_steps(home, [*short, *options]))
    lost = Stats.of([two - one for one, two in zip(plain, tracked, strict=True)])
    minutes = 4 * pairs * WINDOW_SECONDS / 60
    ratio = Stats.of(suspended_ratios(home, [*fields, "--train.minutes", str(minutes), *track]))
    return {
        "trackers": list(trackers),
        "seconds_without": spread(plain),
        "seconds_with": spread(tracked),
        "seconds_lost_at_start": asdict(lost),
        "training_ratio": asdict(ratio),
        "cost": lost.median / TRAINING_SECONDS + 1 - ratio.median,
        "machine": machine("torch"),
    }


def first_steps(home: Path, options: Sequence[str]) -> float:
    """Seconds of training of a new run with these options."""
    before = set((home / "runs").glob("*"))
    subprocess.run(training_command(home, options), check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return steps_of(new_run(home, before))[-1].elapsed


def suspended_ratios(home: Path, options: Sequence[str]) -> list[float]:
    """Steps per second of a new run in windows with trackers, each divided by that of the window after it without."""
    before = set((home / "runs").glob("*"))
    process = subprocess.Popen(
        training_command(home, options), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    windows: list[Window] = []
    while process.poll() is None:
        follower = find_follower(process.pid)
        begin, is_suspended = time.time(), len(windows) % 2 == 1
        with suppress(psutil.NoSuchProcess):
            if follower is not None and is_suspended:
                follower.suspend()
            time.sleep(WINDOW_SECONDS)
            if follower is not None:
                windows.append(Window(begin, time.time()))
                follower.resume()
    if process.returncode:
        raise UserError(f"llm-workbench train {PRESET} failed; run it to see why.")
    times = [event.time for event in steps_of(new_run(home, before))]
    rates = [rate_in(window, times) for window in windows]
    pairs = zip(windows[::2], rates[::2], rates[1::2], strict=False)
    found = [one / other for window, one, other in pairs if window.begin > times[0] and one and other]
    if not found:
        raise UserError(f"no window of {WINDOW_SECONDS:.0f} s has two steps; repeat with more --pairs.")
    return found


def training_command(home: Path, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "workbench", "train", PRESET, "--home", str(home), *options]


def find_follower(trainer: int) -> psutil.Process | None:
    """The process of the trackers, a child of the trainer."""
    with suppress(psutil.NoSuchProcess):
        return next((child for child in psutil.Process(trainer).children() if "--follow" in child.cmdline()), None)
    return None


def steps_of(run: Run) -> list[StepLogged]:
    return [event for event in run.events() if isinstance(event, StepLogged)]


def rate_in(window: Window, times: Sequence[float]) -> float:
    """Steps per second between the first and the last of the `times` in a window; 0 with fewer than two."""
    inside = [moment for moment in times if window.begin <= moment < window.end]
    return (len(inside) - 1) / (inside[-1] - inside[0]) if len(inside) > 1 else 0.0


def lines_of(result: Result) -> list[str]:
    """The printed result."""
    without, with_trackers, lost = (result[key] for key in ("seconds_without", "seconds_with", "seconds_lost_at_start"))
    low, high = lost["interval"]
    ratio = result["training_ratio"]
    least, most = ratio["interval"]
    return [
        f"{START_STEPS} steps without   {without['median']:.2f} s ({without['least']:.2f}–{without['most']:.2f})",
        f"with {', '.join(result['trackers'])}   {with_trackers['median']:.2f} s, "
        f"{lost['median']:+.2f} s [{low:+.2f} to {high:+.2f}], {len(lost['values'])} pairs",
        f"steps per second with trackers relative to suspended ones: {ratio['median']:.4f} [{least:.4f}–{most:.4f}], "
        f"{len(ratio['values'])} pairs",
        f"cost of a run of {TRAINING_SECONDS:.0f} s: {result['cost']:.2%}",
    ]
