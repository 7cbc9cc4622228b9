"""`plan`: what a preset would need on many GPUs, by formula."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, replace
from typing import Any

from llm.config import load_preset
from llm.errors import WrongUse
from llm.scale import MACHINES, Machine, Needs, plan
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table, say
from workbench.presets.needs import assumptions, table_rows


def register(subparsers: Any) -> None:
    help = "compute what a preset would need on many GPUs: memory, bytes moved, time, checkpoints"
    command = add_command(subparsers, "plan", help, run_plan, json=True, takes_fields=True)
    command.usage = (
        f"{command.prog} PRESET [--gpus N,...] [--gpu {'|'.join(MACHINES)}] [--mfu SHARE] [--home DIR] [--json] "
        "[--FIELD VALUE ...]"
    )
    command.add_argument("preset", metavar="PRESET", help="a preset's name, or a .toml file")
    command.add_argument("--gpus", default="1,8", metavar="N,...", help="numbers of GPUs (default: 1,8)")
    command.add_argument("--gpu", default="H100", metavar="NAME", help="kind of GPU: " + ", ".join(MACHINES))
    help = "assumed share of the GPU's peak that a step reaches without communication (default: 0.4)"
    command.add_argument("--mfu", type=float, default=0.4, metavar="SHARE", help=help)


def run_plan(options: argparse.Namespace) -> int:
    config = load_preset(options.preset, options.home, options.overrides)
    machine = machine_of(options.gpu, options.mfu)
    found = [plan(config, gpus, machine) for gpus in numbers_of(options.gpus)]
    if options.json:
        print_json([asdict(each) | more_numbers(each) for each in found])
        return 0
    print_table(("", *(f"{each.gpus} × {machine.gpu}" for each in found)), table_rows(found))
    say(assumptions(machine))
    if not all(each.fits for each in found):
        say("what does not fit may fit with --train.sharding fsdp, --train.recompute blocks, or more GPUs")
    return 0


def machine_of(name: str, mfu: float) -> Machine:
    if name not in MACHINES:
        raise WrongUse(f"nothing is known of a GPU {name}; use one of {', '.join(MACHINES)}.")
    if not 0 < mfu <= 1:
        raise WrongUse(f"--mfu is a share above 0 and up to 1, not {mfu:g}.")
    return replace(MACHINES[name], mfu=mfu)


def numbers_of(text: str) -> list[int]:
    """Numbers of GPUs, as in "8,512"."""
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*[0-9]{1,7}\s*", part) and 0 < int(part) <= 1_000_000 for part in parts):
        raise WrongUse(f"--gpus takes numbers such as 8,512, not {text!r}.")
    return [int(part) for part in parts]


def more_numbers(needs: Needs) -> dict[str, float]:
    return {
        "memory_bytes": needs.memory_bytes,
        "step_seconds": needs.step_seconds,
        "tokens_per_second": needs.tokens_per_second,
    }
