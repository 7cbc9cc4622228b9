"""`sft`, `dpo` and `grpo`: stages of fine-tuning."""

from __future__ import annotations

import argparse
from typing import Any

from llm.config import check_name, diff
from llm.memory import memory_errors_as_user_errors
from llm.run.checkpoints import BASE
from llm.run.fork import open_parent
from workbench.commands.options import add_checkpoint, add_command
from workbench.commands.output import say
from workbench.commands.ranks import add_launch_flags, launch_of, with_nproc
from workbench.commands.train import add_track_option, train_new

STAGES = {
    "sft": "teach a run to answer: fine-tune it on conversations",
    "dpo": "tune a run to preferences: rows with a chosen and a rejected answer",
    "grpo": "reinforce the right answers of a run: sums, counting or format, checked by a function",
}
NEEDS = {
    "sft": "[--data.corpus FILE]",
    "dpo": "[--data.corpus FILE]",
    "grpo": "[--tune.task sums|counting|format]",
}
"""What each learns from, for the usage line."""


def register(subparsers: Any) -> None:
    for stage, help in STAGES.items():
        command = add_command(subparsers, stage, help, tune, json=True, takes_fields=True)
        command.usage = (
            f"{command.prog} RUN[@STEP|@last|@best] {NEEDS[stage]} [--name NAME] [--keep-optimizer] [--json] "
            "[--FIELD VALUE ...]"
        )
        add_checkpoint(command)
        command.add_argument("--name", help=f"name of the new run (default: the parent's name, -{stage} and a number)")
        add_track_option(command)
        add_launch_flags(command)
        help = "keep the parent's optimizer state instead of starting with a new one"
        command.add_argument("--keep-optimizer", action="store_true", help=help)
        command.set_defaults(stage=stage)


def tune(options: argparse.Namespace) -> int:
    """Create a run that fine-tunes another run's checkpoint, and train it."""
    if options.name:
        check_name(options.name)
    with memory_errors_as_user_errors():
        from llm.training.start_stage import plan_stage, start_stage
    parent = open_parent(options.home, options.run, say)
    stage = plan_stage(
        options.home, parent, with_nproc(options), stage=options.stage, keep_optimizer=options.keep_optimizer
    )
    launch = launch_of(options, stage.config)
    run = start_stage(options.home, stage, name=options.name or "")
    for path, before, after in diff(parent.config, run.config()):
        say(f"{path}: {before} → {after}")
    state = "with its optimizer state" if stage.keep_optimizer else "with a new optimizer state"
    tokens = f" and {stage.new_tokens} new special tokens" if stage.new_tokens else ""
    say(f"starts at step 0 with the weights of {parent.reference}, {state}{tokens}")
    if rank := stage.config.tune.lora_rank:
        say(f"trains adapters of rank {rank} (LoRA); the weights stay as they are, and are kept in {run.path / BASE}")
    return train_new(run, options, launch)
