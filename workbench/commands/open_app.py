"""Commands that open the workbench on one run: `chat` and `attach`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llm.run import Run, find_checkpoint
from workbench.commands.options import add_checkpoint, add_command, add_run
from workbench.commands.output import say


def register(subparsers: Any) -> None:
    chatting = add_command(subparsers, "chat", "open the workbench on a chat with a model", chat)
    add_checkpoint(chatting)
    attaching = add_command(
        subparsers, "attach", "open the workbench on a run, also one that trains in another process", attach
    )
    add_run(attaching)


def chat(options: argparse.Namespace) -> int:
    """Open the workbench on a chat with a checkpoint."""
    find_checkpoint(options.home, options.run, say)
    return open_workbench(options.home, options.run)


def attach(options: argparse.Namespace) -> int:
    """Open the workbench on the charts of a run; its keys control the training in any process."""
    run = Run.open(options.home, options.run)
    home = run.path.parent.parent if run.path.parent.name == "runs" else options.home
    return open_workbench(home, None, watch=run.name)


def open_workbench(home: Path, reference: str | None, watch: str | None = None) -> int:
    """Open the workbench: on its first screen, a chat with `reference`, or the charts of the run `watch`."""
    from workbench.app import run_app

    return run_app(home, open=reference, watch=watch)
