"""What `runs` and `data` do besides listing: export, the trash, and taking away data that no run uses."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.errors import WrongUse
from llm.events import Progress
from llm.run import Run
from workbench.commands.output import print_json, print_table, say
from workbench.formatting import format_age

TOLD_FROM = 20.0  # MB of log from which exporting tells how far it is
RUNS_USAGE = (
    "{prog} [RUN] [--json]\n"
    "       {prog} export RUN --csv [--output FILE]\n"
    "       {prog} delete RUN\n"
    "       {prog} trash [--json]\n"
    "       {prog} restore RUN\n"
    "       {prog} empty-trash [--yes]"
)


def add_run_verbs(parser: Any) -> None:
    """The flags of the verbs of `runs`."""
    parser.usage = RUNS_USAGE.format(prog=parser.prog)
    parser.add_argument("--csv", action="store_true", help="export: the curves as comma-separated values")
    parser.add_argument("--output", type=Path, metavar="FILE", help="export: where to (default: stdout)")
    parser.add_argument("--yes", action="store_true", help="empty-trash: do it; otherwise it says what would be lost")


def run_verb(verb: str, options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function that carries out a verb, after checking that it has the name it needs, and nothing else."""
    takes_name, carry_out = VERBS[verb]
    given = len(options.words) - 1
    if given != takes_name:
        needs = f"llm-workbench runs {verb}{' RUN' if takes_name else ''}"
        raise WrongUse(f"runs {verb} takes {'one run' if takes_name else 'no name'}: {needs}.")
    return carry_out


def export(options: argparse.Namespace) -> int:
    """The curves of a run as CSV, to stdout or into a file that is there only when it is whole."""
    if options.json:
        raise WrongUse("runs export writes CSV, not JSON; leave out --json.")
    if not options.csv:
        raise WrongUse(f"runs export needs to know the form: llm-workbench runs export {options.words[1]} --csv.")
    run = Run.open(options.home, options.words[1])

    from workbench.commands.progress import progress_reporter
    from workbench.runs.export import save_csv, write_csv

    log = run.path / "events.jsonl"
    megabytes = log.stat().st_size / 1e6 if log.exists() else 0.0
    with progress_reporter() as reporter:

        def progress(share: float) -> None:
            if megabytes > TOLD_FROM:
                reporter.report(Progress(stage="Exporting", done=share * megabytes, total=megabytes, unit="MB"))

        if options.output is None:
            write_csv(run, sys.stdout, progress)
            return 0
        steps = save_csv(run, options.output, progress)
    say(f"wrote {steps:,} steps of {run.name} to {options.output}")
    return 0


def delete(options: argparse.Namespace) -> int:
    from workbench.runs.trash import move_to_trash

    run = Run.open(options.home, options.words[1])
    move_to_trash(options.home, run)
    say(f"{run.name} is in the trash; llm-workbench runs restore {run.name} brings it back.")
    return 0


def trash(options: argparse.Namespace) -> int:
    """What lies in the trash."""
    from workbench.formatting import format_size
    from workbench.runs.trash import list_trash

    items = list_trash(options.home)
    if options.json:
        print_json([vars(item) | {"path": str(item.path)} for item in items])
    elif items:
        rows = [
            (item.name, format_size(item.size_bytes), f"{format_age(time.time() - item.deleted)} ago") for item in items
        ]
        print_table(("name", "size", "deleted"), rows)
    else:
        say("the trash is empty.")
    return 0


def restore(options: argparse.Namespace) -> int:
    from workbench.runs.trash import find_trashed
    from workbench.runs.trash import restore as bring_back

    item = find_trashed(options.home, options.words[1])
    run = bring_back(options.home, item)
    say(f"{item.name} is back" + (f" as {run.name}, since that name was taken." if run.name != item.name else "."))
    return 0


def empty_trash(options: argparse.Namespace) -> int:
    from workbench.formatting import format_size
    from workbench.runs.trash import empty, list_trash, loss_of_emptying

    items = list_trash(options.home)
    if not items:
        say("the trash is empty.")
        return 0
    loss = loss_of_emptying(items, format_size(sum(item.size_bytes for item in items)))
    if not options.yes:
        raise WrongUse(f"{loss} To do it: llm-workbench runs empty-trash --yes.")
    say(f"freed {format_size(empty(items))}.")
    return 0


VERBS: dict[str, tuple[bool, Callable[[argparse.Namespace], int]]] = {
    "export": (True, export),
    "delete": (True, delete),
    "trash": (False, trash),
    "restore": (True, restore),
    "empty-trash": (False, empty_trash),
}
"""By name: whether it takes the name of a run, and what carries it out."""
