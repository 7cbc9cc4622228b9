"""`stop`: save and stop a run that trains in another process."""

from __future__ import annotations

import argparse
import time
from typing import Any

from llm.errors import UserError, WrongUse
from llm.events import CommandRefused, Finished
from llm.run import Run
from workbench.commands.options import add_command, add_run
from workbench.commands.output import say

POLL_SECONDS = 0.1


def register(subparsers: Any) -> None:
    command = add_command(subparsers, "stop", "save and stop a run that trains in another process", stop)
    add_run(command)


def stop(options: argparse.Namespace) -> int:
    """Ask the trainer of a run to save and stop, and wait until it has."""
    run = Run.open(options.home, options.run)
    holder = run.holder()
    if holder is None:
        raise WrongUse(f"{run.name} is not in training (its status is {run.status().name}).")
    say(f"stopping {run.name}, which process {holder.pid} on {holder.host} trains")
    tail = run.tail()
    tail.poll()
    command_id = run.send("stop", reason="stopped from the command line", must_save=True)
    while True:
        is_over = run.holder() is None  # before reading, so that its last events are read
        for event in tail.poll():
            if isinstance(event, CommandRefused) and event.command_id == command_id:
                raise UserError(event.reason)
            if isinstance(event, Finished):
                saved = run.checkpoints()[-1:]
                say(f"{run.name} ended at step {event.step}" + (f"; step {saved[0].step} is saved" if saved else ""))
                return 0
        if is_over:
            raise UserError(f"the trainer of {run.name} ended without an answer; its status is {run.status().name}.")
        time.sleep(POLL_SECONDS)
