"""`python -m llm.train RUN_DIR`: train a run in a process of its own. Everything it says is in the run directory.

On several GPUs, or machines: `torchrun --nproc-per-node N -m llm.train RUN_DIR`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm.commands import CommandQueue
from llm.environment import settle_process
from llm.errors import UserError
from llm.run import Command, Run


@contextmanager
def stopping_on_signals(commands: CommandQueue) -> Iterator[dict[str, int]]:
    """SIGINT and SIGTERM ask for a stop (which saves); a second SIGINT ends at once; a lost terminal (SIGHUP) does not
    end a training. Yields a dict that holds the number of the signal that came, as 'signal'."""
    seen: dict[str, int] = {}

    def handle(number: int, frame: Any) -> None:
        if seen.get("signal") == number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        seen["signal"] = number
        name = signal.Signals(number).name
        commands.inject(Command("stop", name, {"reason": f"interrupted by {name}"}))

    handlers: dict[signal.Signals, Any] = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGHUP: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """Train the run that `arguments` name; returns the exit status."""
    settle_process()
    from llm.distributed import joined_ranks  # these load torch, which must find the environment settled
    from llm.training import run_training

    parser = argparse.ArgumentParser(prog="python -m llm.train", description=__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--home", type=Path, help="where prepared corpora lie (default: two levels above the run)")
    options, rest = parser.parse_known_args(arguments)
    run = Run(options.run.resolve())
    overrides = tuple(zip((flag.removeprefix("--") for flag in rest[::2]), rest[1::2], strict=False))
    commands = CommandQueue()
    home = options.home or run.path.parent.parent
    with stopping_on_signals(commands) as seen, joined_ranks() as ranks:
        try:
            run_training(run, home, commands=commands, overrides=overrides, ranks=ranks)
        except UserError as error:
            print(error, file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            return 130
    return 128 + seen["signal"] if seen else 0


if __name__ == "__main__":
    sys.exit(main())
