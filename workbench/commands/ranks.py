"""Train a run on several ranks from the command line: start torchrun, and follow the run until it ends."""

from __future__ import annotations

import argparse
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from llm.config import RunConfig
from llm.config.overrides import Overrides
from llm.errors import UserError, WrongUse
from llm.events import Event, Finished
from llm.launch import LOG, Launch, explain_end, start_detached, to_shell, training_command
from llm.run import Run
from workbench.commands.options import Parser
from workbench.commands.output import say

POLL_SECONDS = 0.1
UNFOLLOWED = {
    "--no-start": "only creates the run",
    "--print-command": "only prints a command",
    "--detach": "returns at once",
}
"""The flags with which a command does not follow a training, and why."""


def add_launch_flags(parser: Parser) -> None:
    """The flags of `train` and `resume` for several ranks."""
    help = "train in N processes of this machine, with torchrun (one for each GPU)"
    parser.add_argument("--nproc", type=int, metavar="N", help=help)
    parser.add_argument("--nnodes", type=int, default=1, metavar="M", help="train on M machines (default: 1)")
    parser.add_argument("--rdzv-endpoint", default="", metavar="HOST:PORT", help="where several machines meet")
    help = "restart all ranks from the last checkpoint up to N times when one dies"
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N", help=help)
    parser.add_argument("--detach", action="store_true", help="train in the background, and return at once")
    help = "print the command that trains the run, to be started on each machine, and train nothing"
    parser.add_argument("--print-command", action="store_true", help=help)


def with_nproc(options: argparse.Namespace) -> Overrides:
    """The overrides of a command line, `--nproc` among them."""
    own = () if options.nproc is None else (("train.nproc", str(options.nproc)),)
    return (*options.overrides, *own)


def launch_of(options: argparse.Namespace, config: RunConfig) -> Launch:
    """How many ranks a command line asks for. Raises WrongUse or ConfigError where they cannot train `config`, or where
    flags exclude each other."""
    check_flags(options)
    launch = Launch(config.train.nproc, options.nnodes, options.rdzv_endpoint, options.max_restarts)
    if launch.nodes > 1:
        check_endpoint(launch.endpoint)
    if launch.nproc > 1:
        from llm.training.distributed import choose_backend  # loads torch

        choose_backend(config.train.device, launch.nproc)
    return launch


def check_flags(options: argparse.Namespace) -> None:
    """WrongUse for a flag that another one would make useless."""
    given = {flag for flag in (*UNFOLLOWED, "--track") if getattr(options, flag[2:].replace("-", "_"), False)}
    for flag, reason in UNFOLLOWED.items():
        if flag in given and (others := sorted(given - {flag})):
            track = (
                "; to write the metrics later: llm-workbench runs export RUN --to LIST" if "--track" in given else ""
            )
            raise WrongUse(
                f"{flag} {reason}, so {' and '.join(others)} would do nothing: leave one of them out{track}."
            )


def check_endpoint(endpoint: str) -> None:
    """WrongUse unless HOST:PORT is an address; whether something listens there is found out when the machines meet."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, ValueError, OverflowError) as error:
        raise WrongUse(
            f"--rdzv-endpoint {endpoint}: this is no address known here; give the name or address of one of the "
            "machines, and a free port."
        ) from error


def trains_elsewhere(launch: Launch, options: argparse.Namespace) -> bool:
    """Whether another process than this one is to train."""
    return bool(launch.world_size > 1 or options.detach or options.print_command)


def follow_ranks(
    run: Run,
    launch: Launch,
    process: subprocess.Popen[bytes],
    on_event: Callable[[Event], None],
    seen: Mapping[str, int],
) -> None:
    """Report the events of a run until the process that trains it ends; UserError where it failed.

    Once `seen` has a signal, the run is saved and stopped.
    """
    tail, end, is_stopping = run.tail(), None, False
    tail.poll()
    while True:
        is_over = process.poll() is not None  # before reading, so that the last events are read
        for event in tail.poll():
            on_event(event)
            end = event if isinstance(event, Finished) else None
        if is_over:
            break
        if seen and not is_stopping:
            is_stopping = True
            say("saving and stopping…")
            request_stop(run, process)
        time.sleep(POLL_SECONDS)
    if end is None or end.status == "failed":
        raise UserError(end.reason if end is not None else explain_end(run, launch.world_size))


def request_stop(run: Run, process: subprocess.Popen[bytes]) -> None:
    """Ask the trainer in `process` to save and stop: by a command, or by a signal where that cannot be written."""
    try:
        run.send("stop", reason="interrupted on the command line", at_once=True)
    except UserError as error:
        say(str(error))
        process.terminate()


def start_ranks(
    run: Run, home: Path, launch: Launch, overrides: Overrides, options: argparse.Namespace
) -> subprocess.Popen[bytes] | None:
    """Start the training of `run` in the background; None where only the command is to be printed."""
    command = training_command(run, home, launch, overrides)
    if options.print_command:
        print(to_shell(command))
        return None
    if run.holder() is not None:
        raise WrongUse(f"{run.name} is in training already; stop it first with llm-workbench stop {run.name}.")
    if launch.nodes > 1:
        say(f"on each of the other machines: {to_shell(command)}")
    process = start_detached(command, run)
    say(f"training {run.name} on {launch.world_size} ranks; their output is in {run.path / LOG}")
    if options.detach:
        say(f"watch it with llm-workbench attach {run.name}; stop it with llm-workbench stop {run.name}")
    return process
