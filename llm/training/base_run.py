"""Presets that fine-tune: the run of the base preset (`tune.base`) they start from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from llm.config import RunConfig, diff, get_value, load_preset, preset_sizes
from llm.config.parse import with_values
from llm.config.sizes import names_of
from llm.errors import UserError
from llm.run import Run, list_runs
from llm.run.fork import open_parent
from llm.training.start_stage import stage_with, start_stage

SHAPE_SECTIONS = ("model", "tokenizer", "optim", "train")


def find_base_run(home: Path, config: RunConfig, size: str = "") -> Run | None:
    """The newest run of the base preset with its settings, in `size` or any, a complete one if there is one."""
    sizes = [size] if size else names_of(preset_sizes(config.tune.base, home))
    bases = [load_preset(config.tune.base, home, size=one) for one in sizes]
    found = [run for run in list_runs(home) if any(is_run_of(run, base) for base in bases)]
    return next((run for run in found if is_complete(run)), found[0] if found else None)


def is_run_of(run: Run, base: RunConfig) -> bool:
    """Whether a run has the settings of a preset, whatever it is called; a fork has not."""
    with suppress(UserError):  # a damaged run
        own = replace(run.config(), purpose=base.purpose, group=base.group)
        return not run.info().get("parent") and not diff(own, base)
    return False


def is_complete(run: Run) -> bool:
    """Whether a run has reached its end and has a checkpoint."""
    return run.status().name == "finished" and any(run.checkpoint_directory.glob("step-*"))


def start_from_base(home: Path, config: RunConfig, base: Run, *, name: str = "", stem: str = "") -> Run:
    """Create the run that fine-tunes the newest checkpoint of `base` as `config` says; `name` and `stem` as in
    `start_stage`."""
    parent = open_parent(home, f"{base.name}@last")
    config = with_size_of(config, load_preset(config.tune.base, home), parent.config)
    return start_stage(home, stage_with(home, parent, config), name=name, stem=stem)


def with_size_of(config: RunConfig, usual: RunConfig, base: RunConfig) -> RunConfig:
    """`config` with what the size of `base` changes of the `usual` base, except for fields that `config` has set."""
    changed = {
        path: value
        for path, before, value in diff(usual, base)
        if path.partition(".")[0] in SHAPE_SECTIONS and get_value(config, path) == before
    }
    return with_values(config, changed)
