"""Programs in processes of their own, forked from a process that has imported what they need.

A program of ours takes 2 s of a processor to start, nearly all of it to import torch and Textual; a fork is there at
once. What is special about a start (the order of imports, the environment) needs `subprocess` instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

IMPORTS = [
    "llm.training.run",
    "workbench.cli",
    "workbench.app",
    *(f"workbench.{name}.screen" for name in ("presets", "train", "runs", "chat", "data")),
]
NOTHING = os.devnull


class ForkedProgram:
    """A process that calls `target(*arguments)`, with the methods of `subprocess.Popen`.

    Leads a session without a terminal; `streams` are the paths of its standard input, output and error. The exit status
    is the one of SystemExit, as usual.
    """

    def __init__(
        self,
        target: Callable[..., object],
        *arguments: object,
        streams: tuple[str | Path, str | Path, str | Path] = (NOTHING, NOTHING, NOTHING),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTS)
        ready, here = context.Pipe(duplex=False)
        settled = dict(os.environ if environment is None else environment)
        self._streams = tuple(map(str, streams))
        self._process = context.Process(target=_run, args=(here, self._streams, settled, target, arguments))
        self._process.start()
        here.close()
        ready.poll(120)  # or end of file: the streams are open, or the process has failed
        ready.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what was written to the files of the output and error streams."""
        self.wait(timeout)
        _, output, errors = (Path(stream) for stream in self._streams)
        return tuple(path.read_text("utf-8") if path.is_file() else "" for path in (output, errors))  # type: ignore[return-value]

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    ready: Connection,
    streams: tuple[str, ...],
    environment: dict[str, str],
    target: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    import torch

    os.setsid()
    for number, path in enumerate(streams):
        flags = os.O_RDWR if number == 0 else os.O_RDWR | os.O_APPEND | os.O_CREAT
        opened = os.open(path, flags | os.O_NOCTTY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", 1, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # as the environment has it
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    ready.close()
    try:
        target(*arguments)
    finally:
        atexit._run_exitfuncs()


def complete(target: Callable[..., object], *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end on one thread; `settings` are additional environment variables."""
    with tempfile.TemporaryDirectory() as folder:
        streams = (NOTHING, Path(folder, "output"), Path(folder, "errors"))
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings
        program = ForkedProgram(target, *arguments, streams=streams, environment=environment)
        output, errors = program.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, program.wait(), output, errors)


def complete_on_ranks(
    count: int, *words: str, per_machine: int = 0, program: Callable[..., object] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Run `python -m llm.train words`, or `program`, on `count` ranks to the end, with the environment that torchrun
    gives them, as if each machine had `per_machine` of them (0: all)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    per_machine = per_machine or count
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(per_machine)}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank % per_machine)} for rank in range(count)]
    with ThreadPoolExecutor(count) as threads:
        ranks = [threads.submit(complete, program or run_trainer, *words, **shared, **one) for one in own]
        return [rank.result() for rank in ranks]


def run_code(code: str, *arguments: str) -> None:
    """What `python -c code arguments` does."""
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


def run_workbench(*words: str) -> None:
    """What `python -m workbench words` does."""
    from workbench.cli import main

    raise SystemExit(main(list(words)))


def run_trainer(*words: str) -> None:
    """What `python -m llm.train words` does."""
    from llm.train import main

    raise SystemExit(main(list(words)))
