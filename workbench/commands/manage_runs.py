"""`runs export`, `runs delete`, and the trash."""

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

PROGRESS_FROM_MB = 20.0  # size of the log from which an export shows its progress
RUNS_USAGE = (
    "{prog} [RUN] [--json]\n"
    "       {prog} export RUN --csv [--output FILE]\n"
    "       {prog} export RUN --to tensorboard,wandb,trackio,csv [--out DIR]\n"
    "       {prog} delete RUN\n"
    "       {prog} trash [--json]\n"
    "       {prog} restore RUN\n"
    "       {prog} empty-trash [--yes]"
)


def add_run_verbs(parser: Any) -> None:
    """Add the flags of the subcommands of `runs`."""
    parser.usage = RUNS_USAGE.format(prog=parser.prog)
    parser.add_argument("--csv", action="store_true", help="export: write CSV")
    parser.add_argument("--output", type=Path, metavar="FILE", help="export: the file to write (default: stdout)")
    parser.add_argument("--to", default="", metavar="LIST", help="export: tensorboard, wandb, trackio, csv")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="export --to: the folder (default: exports in the home folder)"
    )
    help = "export --to: follow what a training logs, until stdin is closed"
    parser.add_argument("--follow", action="store_true", help=help)
    parser.add_argument(
        "--yes", action="store_true", help="empty-trash: delete for good; without it, list what would be deleted"
    )


def run_verb(verb: str, options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function of a subcommand. WrongUse where the number of its arguments is wrong."""
    takes_name, run = VERBS[verb]
    given = len(options.words) - 1
    if given != takes_name:
        needs = f"llm-workbench runs {verb}{' RUN' if takes_name else ''}"
        raise WrongUse(f"runs {verb} takes {'one run' if takes_name else 'no name'}: {needs}.")
    return run


def export(options: argparse.Namespace) -> int:
    """Write the curves of a run as CSV, to stdout or to a file that appears only when it is complete."""
    if options.json:
        raise WrongUse("runs export writes CSV, not JSON; leave out --json.")
    if options.to:
        return export_to_trackers(options)
    if not options.csv:
        raise WrongUse("runs export needs a format: --csv, or --to tensorboard, wandb, trackio or csv.")
    run = Run.open(options.home, options.words[1])

    from workbench.commands.progress import progress_reporter
    from workbench.runs.export import save_csv, write_csv

    log = run.path / "events.jsonl"
    megabytes = log.stat().st_size / 1e6 if log.exists() else 0.0
    with progress_reporter() as reporter:

        def progress(share: float) -> None:
            if megabytes > PROGRESS_FROM_MB:
                reporter.report(Progress(stage="Exporting", done=share * megabytes, total=megabytes, unit="MB"))

        if options.output is None:
            write_csv(run, sys.stdout, progress)
            return 0
        steps = save_csv(run, options.output, progress)
    say(f"wrote {steps:,} steps of {run.name} to {options.output}")
    return 0


def export_to_trackers(options: argparse.Namespace) -> int:
    """Write the curves of a run for other programs; prints how to open them."""
    from workbench.trackers.follower import Follower
    from workbench.trackers.process import follow
    from workbench.trackers.tracker import parse_trackers, places

    names = parse_trackers(options.to)
    run = Run.open(options.home, options.words[1])
    follower = Follower(run, places(names, options.home, options.out), say)
    found = {name: tracker.place for name, tracker in follower.trackers.items()}
    for name, place in found.items():
        say(f"{name}: {place}")
    if options.follow:
        follow(follower)
        return 0
    follower.poll()
    failed = set(names) - set(follower.trackers)
    follower.close(with_unsaved=True)
    return 1 if failed else 0


def delete(options: argparse.Namespace) -> int:
    from workbench.runs.trash import move_to_trash

    run = Run.open(options.home, options.words[1])
    move_to_trash(options.home, run)
    say(f"moved {run.name} to the trash; to restore it: llm-workbench runs restore {run.name}")
    return 0


def trash(options: argparse.Namespace) -> int:
    """List the runs in the trash."""
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
        say("The trash is empty.")
    return 0


def restore(options: argparse.Namespace) -> int:
    from workbench.runs.trash import find_trashed
    from workbench.runs.trash import restore as restore_item

    item = find_trashed(options.home, options.words[1])
    run = restore_item(options.home, item)
    say(f"restored {item.name}" + (f" as {run.name}, because the name is in use." if run.name != item.name else "."))
    return 0


def empty_trash(options: argparse.Namespace) -> int:
    from workbench.formatting import format_size
    from workbench.runs.trash import describe_emptying, empty, list_trash

    items = list_trash(options.home)
    if not items:
        say("The trash is empty.")
        return 0
    loss = describe_emptying(items)
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
"""Subcommand -> whether it takes the name of a run, and its function."""
