"""`bench`: the measurements behind the numbers this project states, each one command."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from workbench.commands.options import add_command
from workbench.commands.output import print_json, say


def register(subparsers: Any) -> None:
    parser = add_command(subparsers, "bench", "measure what this project claims", bench, json=True, takes_fields=True)
    parser.add_argument(
        "what", choices=("quickstart",), help="quickstart: train the first preset and judge its replies"
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="replies to judge (default 20)")


def bench(options: argparse.Namespace) -> int:
    """Train in a temporary home, so that a measurement begins where a new user does."""
    from workbench.bench.quickstart import measure

    say("training quickstart from nothing; this takes about two minutes on two quiet cores")
    with tempfile.TemporaryDirectory(prefix="llm-workbench-bench-") as home:
        result = measure(Path(home), options.overrides, options.seeds)
    if options.json:
        print_json(result)
        return 0
    replies = result.pop("replies")
    for name, value in result.items():
        print(f"{name:<22} {value:.4f}" if isinstance(value, float) else f"{name:<22} {value}")
    print(f"\na typical reply, seed 1:\n{replies[0]['text']}")
    return 0
