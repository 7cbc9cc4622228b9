"""Random keys, clicks, pastes and resizes on the workbench in a pseudo-terminal, and a report of how it bears them.

    python -m tests.workbench.soak --minutes 10 --starts 5

Each start has a home of its own with a few runs and one trained model. The keys follow from the seed; when they arrive
depends on the machine, so a seed repeats a walk only roughly. Exit status: 0 if no start ended by itself, left a
traceback or stopped answering, else 1.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median

import psutil

from llm.config import from_mapping, to_mapping, to_toml
from llm.run import list_runs
from tests.conftest import tiny_config, write_corpus
from tests.workbench.scripted import scripted_run
from tests.workbench.soak_person import Person
from tests.workbench.terminal_for_tests import PseudoTerminal

LOADED_ONCE = ("torch._dynamo", "torch._inductor.compile_fx", "pyarrow.parquet", "tokenizers", "sentencepiece")
"""What some actions load, 150 MB in all. It is loaded early, so that it is not taken for a leak."""

START = (
    "import asyncio, faulthandler, fcntl, gc, pathlib, signal, sys, termios, threading\n"
    "from importlib import import_module\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    f"loading = threading.Timer(5, lambda: [import_module(name) for name in {LOADED_ONCE}])\n"
    "loading.daemon = True; loading.start()\n"
    "stacks = open(pathlib.Path(sys.argv[1], 'stacks.log'), 'a')\n"
    "faulthandler.register(signal.SIGUSR1, file=stacks)\n"
    "def describe(*_):\n"
    "    from textual.app import App\n"
    "    app = next(one for one in gc.get_objects() if isinstance(one, App))\n"
    "    print('size', app.size, 'focus', app.focused, file=stacks)\n"
    "    for one in app.screen_stack:\n"
    "        print(one, one.size, one.is_running, one.is_attached, one.is_current, one.children, file=stacks)\n"
    "    for task in asyncio.all_tasks():\n"
    "        task.print_stack(limit=4, file=stacks)\n"
    "    stacks.flush()\n"
    "signal.signal(signal.SIGUSR2, describe)\n"
    "from workbench.cli import main\n"
    "sys.exit(main(['--home', sys.argv[1]]))"
)
"""The workbench as a person starts it. It writes to HOME/stacks.log where its threads are (SIGUSR1), and its screens
and tasks (SIGUSR2)."""

NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # port 9 answers nobody
TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t][^\n]*\n)*[^\n]*", re.MULTILINE)
TINY = "zz-tiny"
SAMPLE_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""How long the workbench may take to repaint after a resize before it counts as stuck."""

ABANDONED = b"the last steps of the run were not saved"
"""What it says when it was quit by its keys while a save took long."""

ALTERNATE_SCREEN = b"\x1b[?1049h"


@dataclass(frozen=True)
class Sample:
    """What the workbench uses at one moment; `silence` is how long it took to repaint, in seconds."""

    seconds: float
    rss_mb: float
    descriptors: int
    threads: int
    actions: int
    silence: float
    start: int = 0
    """How often the workbench had been started again."""

    def __str__(self) -> str:
        return (
            f"{self.seconds:7.0f} s  {self.rss_mb:7.1f} MB  {self.descriptors:4d} descriptors  "
            f"{self.threads:3d} threads  {self.actions:6d} actions  repainted in {self.silence:5.2f} s"
        )


@dataclass
class Report:
    """What happened in one start. `ends` are the exits nobody asked for, `stuck` the times it did not repaint."""

    seed: int
    samples: list[Sample] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    quits: int = 0
    """How often it was quit by its keys, and started again."""

    @property
    def is_clean(self) -> bool:
        return not (self.tracebacks or self.ends or self.stuck)

    def settled(self) -> list[list[Sample]]:
        """The samples of each start of the workbench without its first ones, a third of the whole: until then it loads
        what it uses."""
        starts = [
            [one for one in self.samples if one.start == start] for start in range(self.quits + len(self.ends) + 1)
        ]
        return [samples[len(self.samples) // 3 :] for samples in starts]

    def slope(self) -> float:
        """The growth of the memory in MB a minute: the median over all pairs of settled samples of a start (Theil and
        Sen's estimate), which a model that trains for a while hardly moves."""
        slopes = [
            60 * (later.rss_mb - sooner.rss_mb) / (later.seconds - sooner.seconds)
            for samples in self.settled()
            for sooner, later in combinations(samples, 2)
        ]
        return median(slopes) if slopes else 0.0

    def summary(self) -> str:
        actions = self.samples[-1].actions if self.samples else 0
        slowest = max((one.silence for one in self.samples), default=0.0)
        return (
            f"seed {self.seed}: {actions} actions, {len(self.ends)} crashes, {len(self.tracebacks)} tracebacks, "
            f"stuck {len(self.stuck)} times, quit by keys {self.quits} times, memory {self.slope():+.1f} MB/min, "
            f"slowest repaint {slowest:.1f} s"
        )


class Soak:
    """The workbench on `home`, used at random. `tick(report)` is called after every sample."""

    def __init__(
        self,
        home: Path,
        seed: int,
        *,
        person: Person | None = None,
        sample_seconds: float = SAMPLE_SECONDS,
        tick: Callable[[Report], object] = lambda report: None,
    ) -> None:
        self.home = home
        self.report = Report(seed)
        self.person = person or Person(seed)
        self._sample_seconds = sample_seconds
        self._tick = tick
        self._pause = random.Random(seed + 1)
        self._actions = 0
        self._tail = b""
        self._terminal = self._open()

    @property
    def process(self) -> psutil.Process:
        """The workbench."""
        return psutil.Process(self._terminal.process.pid)

    def run(self, seconds: float, *, train: bool = False) -> Report:
        """Use the workbench for so long; with `train` a training of the tiny preset is begun first."""
        began = time.monotonic()
        try:
            self._wait_for_screen()
            if train:
                for keys in (b"1", b"G", b"\r"):
                    self._type(keys)
                    self._read(2.0)
            next_sample = began + self._sample_seconds
            while (now := time.monotonic()) < began + seconds:
                self._act()
                if now >= next_sample and self._is_alive():
                    self._sample(now - began)
                    next_sample = time.monotonic() + self._sample_seconds
        finally:
            self._terminal.close()
            end_trainers(self.home)
        self.report.tracebacks += tracebacks_in(self.home)
        return self.report

    def _open(self) -> PseudoTerminal:
        terminal = PseudoTerminal(self.home, NO_NETWORK, START, forked=False)
        os.set_blocking(terminal.fd, False)
        return terminal

    def _is_alive(self) -> bool:
        """Whether it still runs; else it is started again, and what it ended with is noted unless it was asked to."""
        status = self._terminal.process.poll()
        if status is None:
            return True
        self._read(0.5)
        if status == 0 or (status == 1 and ABANDONED in self._tail):
            self.report.quits += 1
        else:
            self.report.ends.append(f"exit status {status}:\n{readable(self._tail)}")
        os.close(self._terminal.fd)
        self._terminal = self._open()
        self._wait_for_screen()
        return False

    def _wait_for_screen(self) -> None:
        """Type nothing before the workbench has the terminal: until then ctrl+c ends it, as it ends any program."""
        self._tail, began = b"", time.monotonic()
        while ALTERNATE_SCREEN not in self._tail and time.monotonic() - began < ANSWER_SECONDS:
            self._read(0.1)
        self._read(1.0)

    def _act(self) -> None:
        self._actions += 1
        for columns, lines in self.person.sizes():
            self._terminal.set_size(columns, lines)
        self._type(self.person.keys())
        self._read(self._pause.choice((0.0, 0.0, 0.02, 0.05, 0.1, 0.3)))
        self._is_alive()

    def _type(self, keys: bytes) -> None:
        try:
            self._terminal.type(keys)
        except BlockingIOError:  # it has not read what was typed before
            self._read(0.1)
        except OSError:  # it has ended
            pass

    def _read(self, seconds: float) -> float:
        """Take in what is written within `seconds`; returns when the first of it came, in seconds."""
        began, first = time.monotonic(), seconds
        while (left := began + seconds - time.monotonic()) >= 0:
            data = self._terminal.read_bytes(min(left, 0.1))
            if data is None:
                return first
            if data:
                first = min(first, time.monotonic() - began)
                self._tail = (self._tail + data)[-20_000:]
        return first

    def _sample(self, seconds: float) -> None:
        silence = self._silence()
        try:
            with self.process.oneshot():
                rss, descriptors = self.process.memory_info().rss, self.process.num_fds()
                threads = self.process.num_threads()
        except psutil.Error:
            return
        start = self.report.quits + len(self.report.ends)
        self.report.samples.append(Sample(seconds, rss / 1e6, descriptors, threads, self._actions, silence, start))
        end_trainers(self.home, self._terminal.process.pid)
        self._tick(self.report)

    def _silence(self) -> float:
        """How long it takes to repaint at another size, at most `ANSWER_SECONDS`."""
        self._read(0.2)
        columns, lines = self.person.size
        self.person.size = (max(2, columns) ^ 1, lines)
        self._terminal.set_size(*self.person.size)
        began = time.monotonic()
        while (took := time.monotonic() - began) < ANSWER_SECONDS:
            if self._read(0.05) < 0.05 or self._terminal.process.poll() is not None:
                return took
        for asked in (signal.SIGUSR1, signal.SIGUSR2):
            self._terminal.process.send_signal(asked)
            time.sleep(1.0)
        self.report.stuck.append((self.home / "stacks.log").read_text(encoding="utf-8", errors="replace")[-30_000:])
        return took


def readable(output: bytes) -> str:
    """What was written last, without the terminal's escape sequences."""
    return re.sub(r"\x1b(\[[0-9;?<>=]*[a-zA-Z]|[()=>].?)", "", output.decode("utf-8", "replace"))[-4000:]


def tracebacks_in(home: Path) -> list[str]:
    """Every traceback in the logs of the workbench and of its trainings."""
    files = [home / "workbench.log", *(home / "logs").glob("error-*.log"), *(home / "runs").glob("*/crash.txt")]
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in files if file.exists())
    return [found for text in texts for found in TRACEBACK.findall(text)]


def end_trainers(home: Path, workbench: int = 0) -> None:
    """End the processes in which runs of `home` are trained. In the workbench only runs of the tiny preset are trained
    on: the keys may have begun one that takes all the memory there is."""
    for run in list_runs(home):
        holder = run.holder()
        if holder is not None and holder.pid == workbench:
            if not run.name.startswith(TINY):
                run.send("stop")
        elif holder is not None:
            try:
                psutil.Process(holder.pid).kill()
            except psutil.Error:  # it has ended meanwhile
                continue


def make_home(home: Path) -> None:
    """A home with runs of several lengths, one trained model, and a tiny preset that trains for long, the last one."""
    home.mkdir(parents=True, exist_ok=True)
    config = to_mapping(tiny_config(write_corpus(home)))
    config["train"]["steps"] = 1_000_000
    (home / "presets").mkdir()
    preset = home / "presets" / f"{TINY}.toml"
    preset.write_text(to_toml(from_mapping(config)), encoding="utf-8")
    for name, steps, end in (("old-1", 330, "stopped"), ("old-2", 60, "failed"), ("old-3", 0, ""), ("old-4", 600, "")):
        scripted_run(home, name, steps, end=end)
    command = [sys.executable, "-m", "workbench", "--home", str(home), "train", str(preset), "--train.steps", "20"]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)


@contextmanager
def home_for(seed: int, kept: Path | None) -> Iterator[Path]:
    """A new home, removed afterwards unless there is a folder to keep it in."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        home = (kept or Path(folder)) / f"soak-{seed}"
        make_home(home)
        yield home


def print_last(report: Report) -> None:
    """Print the newest sample."""
    print(report.samples[-1], flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long each start lasts")
    parser.add_argument("--seed", type=int, default=1, help="of the first start; each further one takes the next")
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="begin with a training")
    parser.add_argument("--no-resizes", action="store_true")
    parser.add_argument("--every", type=float, default=SAMPLE_SECONDS, help="seconds between two samples")
    parser.add_argument("--keep", type=Path, help="a folder to keep the homes in, with their logs")
    options = parser.parse_args()
    clean = True
    for seed in range(options.seed, options.seed + options.starts):
        with home_for(seed, options.keep) as home:
            person = Person(seed, resizes=not options.no_resizes)
            soak = Soak(home, seed, person=person, sample_seconds=options.every, tick=print_last)
            report = soak.run(60 * options.minutes, train=options.train)
        for kind in ("ends", "tracebacks", "stuck"):
            for text in getattr(report, kind):
                print(f"--- {kind}\n{text}", flush=True)
        print(report.summary(), flush=True)
        clean = clean and report.is_clean
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
