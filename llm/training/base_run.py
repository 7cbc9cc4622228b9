"""The run that a fine-tuning preset starts from: a run of its base preset (`tune.base`)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from llm.config import RunConfig, diff, get_value, load_preset, preset_sizes
from llm.config.parse import check_or_raise, with_values
from llm.config.sizes import MEDIUM, names_of
from llm.errors import ConfigError, UserError
from llm.run import Run, list_runs
from llm.run.fork import open_parent, why_unchangeable
from llm.training.start_stage import CONVOLUTION, stage_with, start_stage

SHAPE_SECTIONS = ("model", "tokenizer", "optim", "train")


def base_config(home: Path, config: RunConfig, size: str = MEDIUM) -> RunConfig:
    """The configuration of a base run for `config`: the base preset in `size`, with the fields of `config` that a stage
    cannot change, such as the shape of the model. ConfigError where they contradict each other."""
    default = load_preset(config.tune.base, home)
    fixed = {path: value for path, _, value in diff(default, config) if is_of_base(path, default, config)}
    return check_or_raise(with_values(load_preset(config.tune.base, home, size=size), fixed))


def is_of_base(path: str, default: RunConfig, config: RunConfig) -> bool:
    """Whether a field of `config` must have its value in the base run already. A stage can add the convolution."""
    is_added = path == CONVOLUTION and not default.model.embedding_conv and not config.tune.lora_rank
    return bool(why_unchangeable(path, default)) and not is_added


def find_base_run(home: Path, config: RunConfig, size: str = "") -> Run | None:
    """The most recent run for `config` of the base preset in `size` (default: any size), complete runs first; None if
    there is none."""
    sizes = [size] if size else names_of(preset_sizes(config.tune.base, home))
    bases = []
    for one in sizes:
        with suppress(ConfigError):  # a size in which the fields of `config` contradict each other
            bases.append(base_config(home, config, one))
    runs = [run for run in list_runs(home) if any(is_run_of(run, base) for base in bases)]
    return next((run for run in runs if is_complete(run)), runs[0] if runs else None)


def is_run_of(run: Run, base: RunConfig) -> bool:
    """Whether a run has no parent and has the settings of `base`, except `purpose` and `group`."""
    with suppress(UserError):  # a damaged run
        config = replace(run.config(), purpose=base.purpose, group=base.group)
        return not run.info().get("parent") and not diff(config, base)
    return False


def is_complete(run: Run) -> bool:
    """Whether a run is finished and has a checkpoint."""
    return run.status().name == "finished" and any(run.checkpoint_directory.glob("step-*"))


def start_from_base(home: Path, config: RunConfig, base: Run, *, name: str = "", stem: str = "") -> Run:
    """Create the run that fine-tunes the newest checkpoint of `base` as `config` says; `name` and `stem` as in
    `start_stage`."""
    parent = open_parent(home, f"{base.name}@last")
    config = with_size_of(config, load_preset(config.tune.base, home), parent.config)
    return start_stage(home, stage_with(home, parent, config), name=name, stem=stem)


def with_size_of(config: RunConfig, default: RunConfig, base: RunConfig) -> RunConfig:
    """`config` in the size of `base`: with the fields of SHAPE_SECTIONS that differ between `base` and `default`, the
    base preset in its default size. Fields in which `config` differs from `default` stay."""
    changed = {
        path: value
        for path, before, value in diff(default, base)
        if path.partition(".")[0] in SHAPE_SECTIONS and get_value(config, path) == before
    }
    return with_values(config, changed)
