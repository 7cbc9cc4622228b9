"""Detect the death of a rank on this machine, and its cause.

A collective that fails says only that a connection was closed. Each rank therefore watches the processes of the other
ranks on its machine through file descriptors (pidfd_open(2)), and reads a dead one's exit status from `/proc` before
torchrun reaps it. Without pidfd (macOS) a death is detected by process id, and its cause is unknown.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from llm.errors import UserError

DEATH_SECONDS = 1.0
"""How long to wait for the death behind a failed collective: a process closes its connections before it is a zombie."""


@dataclass(frozen=True)
class Peer:
    """The process of a rank."""

    rank: int
    pid: int
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()


class RankLost(UserError):
    """A rank has died, or cannot be reached any more, so that no further step is possible."""


class RankWatch:
    """Watches `peers`, the other ranks, in a thread that ends with the process. `deaths` are sentences, in order."""

    def __init__(self, peers: Sequence[Peer], world_size: int) -> None:
        self.peers = [peer for peer in peers if peer.is_here]
        self.world_size = world_size
        self.deaths: list[str] = []
        self._has_died = threading.Event()
        if self.peers and hasattr(os, "pidfd_open"):
            threading.Thread(target=self._watch, name="watch ranks", daemon=True).start()

    def first_death(self) -> str:
        """A description of the first death of a rank on this machine, after waiting up to DEATH_SECONDS for one; "" if
        there is none."""
        self._has_died.wait(DEATH_SECONDS)
        if not self.deaths:
            for peer in self.peers:
                if not is_running(peer.pid):
                    self._record(peer, "")
        return self.deaths[0] if self.deaths else ""

    def _watch(self) -> None:
        poll, watched = select.poll(), {}
        for peer in self.peers:
            try:
                descriptor = os.pidfd_open(peer.pid)
            except OSError:
                continue  # it has died already: `first_death` detects that by its pid
            watched[descriptor] = peer
            poll.register(descriptor, select.POLLIN)
        while watched:
            for descriptor, _ in poll.poll():
                peer = watched.pop(descriptor)
                self._record(peer, exit_reason(peer.pid))
                poll.unregister(descriptor)
                os.close(descriptor)

    def _record(self, peer: Peer, reason: str) -> None:
        who = f"rank {peer.rank} of {self.world_size} (process {peer.pid} on {peer.host})"
        self.deaths.append(f"{who} {reason or 'has died'}")
        self._has_died.set()


def exit_reason(pid: int) -> str:
    """How a process ended that its parent has not reaped yet, from its wait status in `/proc` (proc(5), field 52); ""
    if unknown."""
    with suppress(OSError, ValueError, IndexError):
        for _ in range(20):  # the descriptor may be readable shortly before the status is
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] == "Z":
                return describe_wait_status(int(fields[49]))
            time.sleep(0.005)
    return ""


def describe_wait_status(status: int) -> str:
    """A wait status (wait(2)) in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    note = " (the system sends it when memory runs out)" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{note}"


def is_running(pid: int) -> bool:
    """Whether a process of this machine exists and has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
