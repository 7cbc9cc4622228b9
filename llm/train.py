"""`python -m llm.train RUN_DIR`: train a run in this process. Its events are in the run directory.

On several GPUs, or machines: `torchrun --nproc-per-node N -m llm.train RUN_DIR`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from llm.config.overrides import Overrides, split_overrides
from llm.environment import configure_process
from llm.errors import UserError, WrongUse
from llm.memory import check_memory_for_torch, memory_errors_as_user_errors
from llm.run import Command, Run
from llm.streams import repair_streams
from llm.training.commands import CommandQueue


@contextmanager
def stop_on_signals(commands: CommandQueue) -> Iterator[dict[str, int]]:
    """SIGINT and SIGTERM request a stop, which saves; a second SIGINT raises KeyboardInterrupt; SIGHUP (a closed
    terminal) is ignored. Yields a dict that holds the number of a received signal as "signal"."""
    seen: dict[str, int] = {}

    def handle(number: int, frame: Any) -> None:
        if seen.get("signal") == number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        seen["signal"] = number
        name = signal.Signals(number).name
        commands.inject(Command("stop", name, {"reason": f"interrupted by {name}", "at_once": True}))

    handlers: dict[signal.Signals, Any] = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGHUP: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forward_signals(run: Run, rank: int) -> None:
    """Pass SIGINT and SIGTERM on to rank 0, as a command of the run, which stops and saves all ranks.

    A thread reads them from the interpreter's wake-up descriptor, since the main thread of a rank may wait for the
    others in a collective, where it handles no signal.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def forward() -> None:
        while number := os.read(reader, 1)[0]:
            if number in (signal.SIGINT, signal.SIGTERM):
                reason = f"interrupted by {signal.Signals(number).name}, sent to rank {rank}"
                with suppress(UserError):
                    run.send("stop", reason=reason, at_once=True)
                return

    threading.Thread(target=forward, name="forward signals", daemon=True).start()


class Parser(argparse.ArgumentParser):
    """argparse with errors of one sentence."""

    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message}; see {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the run that `arguments` name; returns the exit status."""
    repair_streams()
    configure_process()
    try:
        run, home, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        with memory_errors_as_user_errors():
            return train(run, home, overrides)
    except UserError as error:
        rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        print(f"{rank}{error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def parse(arguments: Sequence[str]) -> tuple[Run, Path, Overrides]:
    """The run, the home and the overrides in `arguments`. Raises WrongUse and ConfigError."""
    parser = Parser(prog="python -m llm.train", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument(
        "--home", type=Path, help="the folder of the tokenized datasets (default: two levels above the run)"
    )
    own, overrides = split_overrides(arguments, ("--home", "--help"))
    options = parser.parse_args(own)
    run = Run(options.run.resolve())
    if not (run.path / "run.toml").is_file():
        if os.environ.get("RANK", "0") != "0":
            host = socket.gethostname()
            raise WrongUse(f"{host} does not see {run.path}; put the home on a file system that all machines share.")
        raise WrongUse(f"there is no run in {run.path}; give the folder of one, which llm-workbench runs --json lists.")
    return run, options.home or run.path.parent.parent, overrides


def train(run: Run, home: Path, overrides: Overrides) -> int:
    """Train `run` on the ranks that torchrun started; returns the exit status.

    Ranks that a signal stopped, and that are saved, exit with 0: torchrun takes anything else for a failure, after
    which it ends the other ranks and may restart them.
    """
    check_memory_for_torch()
    from llm.training.distributed import check_shared, join_ranks  # loads torch, which needs the environment first
    from llm.training.resume_checks import config_for_resume
    from llm.training.run import run_training

    commands = CommandQueue()
    device = config_for_resume(run, overrides).train.device
    with stop_on_signals(commands) as seen, join_ranks(device) as ranks:
        if not ranks.is_first:
            forward_signals(run, ranks.rank)
        check_shared(run.path, ranks)
        run_training(run, home, commands=commands, overrides=overrides, ranks=ranks)
    return 128 + seen["signal"] if seen and ranks.world_size == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
