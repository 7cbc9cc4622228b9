"""Start several ranks of one run with torchrun, detached from this program and its terminal. Does not import torch."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.config.overrides import Overrides
from llm.errors import WrongUse
from llm.reader import open_file
from llm.run import Run
from llm.run.log import LineAppender

SAVE_SECONDS = 600
"""torchrun's --shutdown-timeout: seconds that the ranks may take to save after a signal to torchrun. When a rank dies,
the others get 30 s in any case; a signal to one rank reaches the others only once it has exited (torch 2.13.0)."""
LOG = "process.log"
HEADING = "--- started "  # before the output of each start
READ_BYTES = 400_000  # of the end of the log
RANK_ERROR = re.compile(r"^rank \d+: (.+)$", re.MULTILINE)
"""A sentence that `llm.train` prints under torchrun."""
RENDEZVOUS_ERRORS = ("RendezvousConnectionError", "RendezvousTimeoutError", "The client socket has timed out")


@dataclass(frozen=True)
class Launch:
    """How many ranks train, and where: `nproc` on each of `nodes` machines, which meet at `endpoint` (HOST:PORT)."""

    nproc: int = 1
    nodes: int = 1
    endpoint: str = ""
    max_restarts: int = 0

    def __post_init__(self) -> None:
        if self.nproc < 1 or self.nodes < 1 or self.max_restarts < 0:
            raise WrongUse("--nproc and --nnodes must be 1 or more, and --max-restarts 0 or more.")
        if self.nodes > 1 and ":" not in self.endpoint:
            raise WrongUse("--nnodes needs --rdzv-endpoint HOST:PORT, where HOST is one of the machines.")

    @property
    def world_size(self) -> int:
        return self.nproc * self.nodes

    def torchrun_flags(self, run: Run) -> list[str]:
        """The flags of torchrun before the program that it starts."""
        meeting = ["--standalone"]
        if self.nodes > 1:
            name = str(run.info().get("id", run.name))  # the same on every machine
            meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={self.endpoint}", f"--rdzv-id={name}"]
        restarts = [f"--max-restarts={self.max_restarts}"] if self.max_restarts else []
        number = [f"--nnodes={self.nodes}", f"--nproc-per-node={self.nproc}"]
        return [*meeting, *number, *restarts, f"--shutdown-timeout={SAVE_SECONDS}"]


def training_command(run: Run, home: Path, launch: Launch, overrides: Overrides) -> list[str]:
    """The command that trains `run` in one process or, under torchrun, in several."""
    flags = [part for path, value in overrides for part in (f"--{path}", value)]
    program = ["-m", "llm.train", str(run.path), "--home", str(home), *flags]
    if launch.world_size == 1:
        return [sys.executable, *program]
    return [sys.executable, "-m", "torch.distributed.run", *launch.torchrun_flags(run), *program]


def to_shell(command: Sequence[str]) -> str:
    """A command as a person would type it, with torchrun by its name."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    words = ["torchrun", *command[3:]] if list(command[:3]) == torchrun else command
    return shlex.join(words)


def start_detached(command: Sequence[str], run: Run) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, which outlives this program; its output goes to the run's log, also on a full
    disk. OSError where that is a link or cannot be opened."""
    log = LineAppender(run.path / LOG)
    try:
        log.append(f"{HEADING}{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        output = log.descriptor
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    finally:
        log.close()


def explain_end(run: Run, world_size: int) -> str:
    """Why what `start_detached` started ended before training began, by what it printed."""
    log = run.path / LOG
    with open_file(log) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - READ_BYTES))
        text = file.read(READ_BYTES).decode(errors="replace").rpartition(HEADING)[2]
    if error := RANK_ERROR.search(text):
        return error[1]
    if any(part in text for part in RENDEZVOUS_ERRORS):
        return "the machines did not meet at the rendezvous; start the same command on all, and open its port there."
    lines = text.strip().splitlines()[1:]  # without the rest of the heading
    if world_size == 1 and lines:
        return lines[-1]
    return f"{run.name} could not be trained; {log} has what its processes printed."
