"""`runs`: list the runs, or the checkpoints of one."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from llm.errors import UserError, WrongUse
from llm.events import TYPES, Evaluated, Finished, Progress, RolledBack, Saved, Started, StepLogged
from llm.files import directory_size
from llm.names import did_you_mean
from llm.run import Run, list_runs
from llm.run.log import newest_lines, parse_event
from llm.run.parts import check_parts
from workbench.commands.manage_runs import VERBS, add_run_verbs, run_verb
from workbench.commands.options import add_command
from workbench.commands.output import number_text, print_json, print_table, say
from workbench.formatting import format_age

MANY_RUNS = 1000
STEP_EVENTS = (StepLogged, Evaluated, Saved, Finished, Started, RolledBack)  # events that hold the current step
METRICS = ("loss", "validation_loss", "perplexity", "bits_per_byte")
LISTED_METRICS = ("loss", "validation_loss", "bits_per_byte")
BEGINS = {kind: b'{"type": "%s"' % name.encode() for name, kind in TYPES.items()}
"""How `llm.events.to_line` begins the lines of a kind: parsing takes most of the time."""
OTHER_LINES = tuple(begin for kind, begin in BEGINS.items() if kind not in STEP_EVENTS)
NOT_EVALUATED = tuple(begin for kind, begin in BEGINS.items() if kind is not Evaluated)


def register(subparsers: Any) -> None:
    help = "list the runs or the checkpoints of one; export, delete or restore a run"
    running = add_command(subparsers, "runs", help, runs, json=True)
    running.add_argument("words", nargs="*", metavar="RUN", help="a run, or " + ", ".join(VERBS))
    add_run_verbs(running)


def runs(options: argparse.Namespace) -> int:
    """List the runs, newest first, or the checkpoints of one, or run a subcommand."""
    if options.words and options.words[0] in VERBS:
        return run_verb(options.words[0], options)(options)
    if len(options.words) > 1:
        advice = did_you_mean(options.words[0], VERBS) or "see llm-workbench runs --help."
        raise WrongUse(f'runs has no subcommand "{options.words[0]}"; {advice}')
    if options.words:
        return checkpoints(Run.open(options.home, options.words[0]), as_json=options.json)
    found = run_records(options.home, with_checkpoints=options.json)
    if options.json:
        print_json(found)
    elif found:
        print_table(
            ("name", "status", "step", "loss", "validation", "bits/byte", "created"), [run_row(run) for run in found]
        )
    else:
        say(f"there are no runs in {options.home / 'runs'}; to train one: llm-workbench train quickstart")
    return 0


def run_records(home: Path, *, with_checkpoints: bool) -> list[dict[str, Any]]:
    """The records of the runs below `home`, newest first; reading many shows progress."""
    found = list_runs(home)
    if len(found) < MANY_RUNS:
        return [run_record(run, with_checkpoints=with_checkpoints) for run in found]
    from workbench.commands.progress import progress_reporter

    records: list[dict[str, Any]] = []
    with progress_reporter() as reporter:
        for run in found:
            if len(records) % (MANY_RUNS // 10) == 0:
                done, total = len(records), len(found)
                reporter.report(Progress(stage="Reading the runs", done=done, total=total, unit="runs"))
            records.append(run_record(run, with_checkpoints=with_checkpoints))
    return records


def run_record(run: Run, *, with_checkpoints: bool = True) -> dict[str, Any]:
    """A run as a record; one with damaged files has a "problem". `with_checkpoints`: with the steps of the checkpoints,
    whose manifests take nearly half of the time."""
    record: dict[str, Any] = {"name": run.name, "path": str(run.path)}
    try:
        check_parts(run.path)
        run.meta()  # a damaged one is a problem
        info, metrics = run.info(), latest_metrics(run)
        kept = run.checkpoints() if with_checkpoints or not metrics else []
        record |= {"status": run.status().name, "created": info.get("created"), "parent": info.get("parent", "")}
        record |= {"checkpoints": [checkpoint.step for checkpoint in kept]} if with_checkpoints else {}
        record |= metrics or ({"step": kept[-1].step} | kept[-1].metrics if kept else {"step": 0})
    except (UserError, OSError) as error:
        from workbench.runs.catalog import why_unreadable

        record |= {"status": "unreadable", "problem": why_unreadable(error)}
    return record


def latest_metrics(run: Run) -> dict[str, Any]:
    """The newest value of each metric near the end of the event log, and the current step."""
    metrics: dict[str, Any] = {}
    is_found = False
    for line in newest_lines(run.path / "events.jsonl"):
        if line.startswith(NOT_EVALUATED if "loss" in metrics else OTHER_LINES):
            continue
        event = parse_event(line)
        if isinstance(event, StepLogged | Evaluated):
            metrics = {name: getattr(event, name) for name in METRICS if hasattr(event, name)} | metrics
        if isinstance(event, STEP_EVENTS) and not is_found:
            metrics["step"] = max(event.step, metrics.get("step", 0))
            # older lines hold no later step, or one that was discarded
            is_found = isinstance(event, Started | RolledBack | StepLogged)
        if "loss" in metrics and "validation_loss" in metrics:
            break
    return metrics


def run_row(run: dict[str, Any]) -> tuple[str, ...]:
    numbers = (number_text(run.get(name)) for name in LISTED_METRICS)
    created = run.get("created")
    return (
        run["name"],
        run["status"],
        str(run.get("step", "–")),
        *numbers,
        f"{format_age(time.time() - created)} ago" if created else "–",
    )


def checkpoints(run: Run, *, as_json: bool) -> int:
    """Print the checkpoints of one run, oldest first."""
    found = run.checkpoints()
    for reason in run.damaged_checkpoints().values():
        say(reason)
    if as_json:
        kept = [vars(info) | {"path": str(info.path)} for info in found]
        print_json(run_record(run) | {"size_bytes": directory_size(run.path), "checkpoints": kept})
        return 0
    if not found:
        say(f"{run.name} has no checkpoint yet.")
        return 0
    from workbench.formatting import format_size

    rows = []
    for info in found:
        numbers = (number_text(info.metrics.get(name)) for name in LISTED_METRICS)
        rows.append((str(info.step), *numbers, format_size(info.size_bytes), ", ".join(info.tags)))
    print_table(("step", "loss", "validation", "bits/byte", "size", ""), rows)
    return 0
