"""`train`, `resume` and `fork`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config import RunConfig, check_name, diff, load_preset, preset_sizes, resumed_config, with_overrides
from llm.config.check import LENGTHS
from llm.config.overrides import Overrides
from llm.config.sizes import MEDIUM
from llm.errors import UserError, WrongUse
from llm.events import (
    AnswersEvaluated,
    CoreEvaluated,
    Evaluated,
    Event,
    Finished,
    MetricsLogged,
    Progress,
    Started,
    StepLogged,
)
from llm.files import remove_directory
from llm.launch import Launch
from llm.memory import memory_errors_as_user_errors
from llm.run import Run
from llm.run.checkpoints import newest_step
from llm.run.fork import check_fields, open_parent
from llm.run.fork import fork as make_fork
from llm.run.lock import RunBusy
from llm.run.log import last_event_of
from llm.training.batch_plan import resolve_batch_size
from workbench.commands.options import Parser, add_checkpoint, add_command, add_run
from workbench.commands.output import print_json, say
from workbench.commands.ranks import (
    add_launch_flags,
    follow_ranks,
    launch_of,
    start_ranks,
    trains_elsewhere,
    with_nproc,
)
from workbench.presets.sizes import choose_by_speed, measure_with_torch, other_sizes, size_entry, sized_preset
from workbench.runs.trash import move_to_trash
from workbench.trackers.process import tracking
from workbench.trackers.tracker import parse_trackers

if TYPE_CHECKING:
    from llm.training.extension import RateChange


def register(subparsers: Any) -> None:
    new = add_command(subparsers, "train", "train a new run from a preset", train, json=True, takes_fields=True)
    new.usage = (
        f"{new.prog} PRESET [--name NAME] [--size NAME] [--fit MINUTES] [--nproc N] [--no-start] [--track LIST] "
        "[--home DIR] [--json] [--FIELD VALUE ...]"
    )
    new.add_argument("preset", metavar="PRESET", help="a preset's name, or a .toml file")
    new.add_argument("--name", help="name of the run (default: the preset's name and a number)")
    help = "size of the preset, such as small, medium or large (default: by the measured speed of this machine)"
    new.add_argument("--size", default="", metavar="NAME", help=help)
    help = "shrink the run so that this machine trains it in MINUTES, and list the changes"
    new.add_argument("--fit", type=float, metavar="MINUTES", help=help)
    help = "only create the run, to be trained later or on another machine"
    new.add_argument("--no-start", action="store_true", help=help)
    help = "resume a run; --train.steps N extends it"
    again = add_command(subparsers, "resume", help, resume, json=True, takes_fields=True)
    again.usage = f"{again.prog} RUN [--keep-rate] [--nproc N] [--home DIR] [--json] [--FIELD VALUE ...]"
    add_run(again)
    help = "train a new run from another run's checkpoint"
    split = add_command(subparsers, "fork", help, fork, json=True, takes_fields=True)
    split.usage = (
        f"{split.prog} RUN[@STEP|@last|@best] [--name NAME] [--weights-only] [--keep-rate] [--json] [--FIELD VALUE ...]"
    )
    add_checkpoint(split)
    split.add_argument("--name", help="name of the new run (default: the parent's name, -fork and a number)")
    help = "start with a new optimizer state, at step 0"
    split.add_argument("--weights-only", action="store_true", help=help)
    help = "with a new length: keep the last learning rate instead of stretching the schedule"
    for parser in (again, split):
        parser.add_argument("--keep-rate", action="store_true", help=help)
    for parser in (new, again, split):
        add_track_option(parser)
        add_launch_flags(parser)


def add_track_option(parser: Parser) -> None:
    help = "also write the metrics for tensorboard, wandb, trackio or csv (a list)"
    parser.add_argument("--track", type=parse_trackers, default=[], metavar="LIST", help=help)


def train(options: argparse.Namespace) -> int:
    """Create a run and train it."""
    config = load_preset(options.preset, options.home, with_nproc(options))
    launch = launch_of(options, config)
    if config.tune.base:
        return train_from_base(config, options, launch)
    if size := options.size or choose_size(config, options):
        config = load_preset(options.preset, options.home, with_nproc(options), size=size)
    if options.fit is not None:
        config = fit_to_machine(config, options)
    resolve_batch_size(config, launch.world_size)  # ConfigError before there is a run
    stem, extra = Path(options.preset).stem, size_entry(size)
    run = Run.create_numbered(options.home, stem, config, name=options.name or "", extra=extra)
    return print_new_run(run, options) if options.no_start else train_new(run, options, launch)


def choose_size(config: RunConfig, options: argparse.Namespace) -> str:
    """The size of the preset, or of that of its base, for the speed of this machine, which is measured; "" where it has
    no sizes, or where the run is fitted to this machine or trained elsewhere."""
    preset = sized_preset(options.preset, options.home, config)
    if not preset or options.no_start or options.fit is not None:
        return ""
    with memory_errors_as_user_errors():
        chosen = choose_by_speed(preset, options.home, config.train, measure_with_torch)
    others = other_sizes(preset_sizes(preset, options.home), chosen.name)
    say(f"{chosen.reason}; --size {others} for another one")
    return chosen.name


def train_from_base(config: RunConfig, options: argparse.Namespace, launch: Launch) -> int:
    """Train the base run of a preset that fine-tunes, unless there is a complete one, then the run of the preset."""
    if options.no_start or options.fit is not None or options.detach or options.print_command:
        raise WrongUse(
            f"{options.preset} trains two runs, one after the other; leave out --no-start, --fit, --detach and "
            f"--print-command, or train {config.tune.base} with them and fine-tune it with llm-workbench sft."
        )
    if options.name:
        check_name(options.name)
    with memory_errors_as_user_errors():
        from llm.training.base_run import find_base_run, is_complete, start_from_base
    if options.size:
        load_preset(config.tune.base, options.home, size=options.size)  # WrongUse where it has no such size
    base = find_base_run(options.home, config, options.size)
    if base is None or not is_complete(base):
        size = options.size or ("" if base else choose_size(config, options))
        status, base = train_base(base, config, size, options, launch)
        if status or not is_complete(base):
            return status
    say(f"{options.preset} starts from {base.name}")
    stem = Path(options.preset).stem
    run = start_from_base(options.home, config, base, name=options.name or "", stem=stem)
    return train_new(run, options, launch)


def train_base(
    base: Run | None, config: RunConfig, size: str, options: argparse.Namespace, launch: Launch
) -> tuple[int, Run]:
    """Train a new base run for `config` in `size`, or resume `base`; returns the exit status and the run."""
    from llm.training.base_run import base_config

    quiet = argparse.Namespace(**vars(options) | {"json": False})
    if base is not None:
        say(f"resuming {base.name} first, from which {options.preset} starts")
        return train_to_the_end(base, quiet, (), LastMetrics(), launch), base
    own = base_config(options.home, config, size or MEDIUM)
    base = Run.create_numbered(options.home, config.tune.base, own, extra=size_entry(size))
    return train_new(base, quiet, launch), base


def fit_to_machine(config: RunConfig, options: argparse.Namespace) -> RunConfig:
    """`config` shrunk to `--fit` minutes on this machine, as `f` on the Presets screen does."""
    from llm.training.batch_plan import TYPICAL_FLOPS
    from workbench.presets.estimate import fitting_overrides
    from workbench.presets.preflight import expected_speed

    if not 0 < options.fit < 1e7:
        raise WrongUse(f"--fit must be a number of minutes above 0, not {options.fit:g}.")
    speed = expected_speed(options.home, config)
    overrides = fitting_overrides(config, speed.flops_per_second if speed else TYPICAL_FLOPS, options.fit)
    for path, value in overrides:
        say(f"to fit: --{path} {value}")
    return with_overrides(config, overrides)


def print_new_run(run: Run, options: argparse.Namespace) -> int:
    """Print the path of a run that was only created, and how to train it."""
    if options.json:
        print_json({"name": run.name, "path": str(run.path)})
    else:
        print(run.path)
    say(f"created {run.name}; to train it: llm-workbench resume {run.name} (--nproc N: on N GPUs of this machine)")
    return 0


def fork(options: argparse.Namespace) -> int:
    """Create a run from another run's checkpoint and train it."""
    from llm.training.extension import fork_rate_change
    from llm.training.resume_checks import check_fork
    from workbench.commands.progress import with_progress

    parent = open_parent(options.home, options.run, say)
    config = with_overrides(parent.config, with_nproc(options))
    launch = launch_of(options, config)
    if options.name:
        check_name(options.name)
    check_fields(parent, config, weights_only=options.weights_only)
    with_progress(check_fork(parent, config, options.home))
    change = None if options.weights_only else fork_rate_change(parent, config)
    config = with_overrides(config, rate_overrides(change, options))
    run = make_fork(options.home, parent, config, name=options.name or "", weights_only=options.weights_only)
    for path, before, after in diff(parent.config, run.config()):
        say(f"{path}: {before} → {after}")
    step = run.checkpoint().step
    say(f"continues at step {step:,}" if step else f"starts at step 0 with the weights of {parent.reference}")
    return train_new(run, options, launch)


def train_new(run: Run, options: argparse.Namespace, launch: Launch) -> int:
    """Train a new run; it is removed again if it fails before training starts."""
    say(f"training {run.name} in {run.path}")
    last = LastMetrics()
    try:
        return train_to_the_end(run, options, (), last, launch)
    except RunBusy:
        raise  # another process trains it
    except UserError:
        if not last.has_started:
            discard(run, options.home)
        raise


def discard(run: Run, home: Path) -> None:
    """Remove a new run that never started to train. A fork, which has a checkpoint, moves to the trash."""
    with suppress(OSError):  # removed or moved meanwhile, or on a disk that refuses
        if any(run.checkpoint_directory.glob("step-*")):
            say(f"{run.name} never started; moved it to {move_to_trash(home, run)}")
        elif not any(isinstance(event, Started) for event in run.events()):
            remove_directory(run.path)


def resume(options: argparse.Namespace) -> int:
    """Resume a run. All overrides are checked first."""
    run = Run.open(options.home, options.run)
    overrides = with_nproc(options)
    check_length(run, resumed_config(run.config(), overrides), overrides)
    with memory_errors_as_user_errors():
        from llm.training.extension import rate_change
        from llm.training.resume_checks import check_world_size, config_for_resume, newest_state
    config = config_for_resume(run, overrides)
    launch = launch_of(options, config)
    check_world_size(config, options.home, launch.world_size, newest_state(run))
    say(f"resuming {run.name} in {run.path}")
    overrides = (*overrides, *rate_overrides(rate_change(run, options.overrides), options))
    return train_to_the_end(run, options, overrides, LastMetrics(), launch)


def rate_overrides(change: RateChange | None, options: argparse.Namespace) -> Overrides:
    """Print what a new length does to the learning rate; returns the overrides of `--keep-rate`."""
    if options.keep_rate:
        if change is None:
            raise WrongUse("--keep-rate needs a new length in steps; set it with --train.steps N.")
        say(f"the learning rate stays at {change.last:.2e} until the last step, {change.total}")
        return change.keeping()
    if change is not None and change.is_jump:
        say(f"{change.describe()}; --keep-rate keeps the last rate")
    return ()


def check_length(run: Run, config: RunConfig, overrides: Sequence[tuple[str, str]]) -> None:
    """WrongUse where the run is complete: it has reached its length, and its last step is saved."""
    end, done = last_event_of(run.path / "events.jsonl", Finished), newest_step(run.checkpoint_directory)
    if run.status().name != "finished" or end is None or done < end.step:
        return
    lengths = {f"train.{length}" for length in LENGTHS}
    in_steps = any(path == "train.steps" for path, _ in overrides)
    if not any(path in lengths for path, _ in overrides) or (in_steps and 0 < config.train.steps <= done):
        raise WrongUse(f"run {run.name} is complete at step {done}; extend it with --train.steps N, N > {done}.")


def train_to_the_end(
    run: Run, options: argparse.Namespace, overrides: Overrides, last: LastMetrics, launch: Launch
) -> int:
    """Train with progress on stderr, in this process or on the ranks of `launch`; an interruption saves first. `last`
    collects the metrics. Returns the exit status."""
    with memory_errors_as_user_errors():
        from llm.train import stop_on_signals
        from llm.training.commands import CommandQueue
        from llm.training.run import run_training
    from workbench.commands.progress import progress_reporter

    process = None
    if trains_elsewhere(launch, options):
        process = start_ranks(run, options.home, launch, overrides, options)
        if process is None or options.detach:
            return 0
    commands = CommandQueue()
    with (
        tracking(run, options.home, options.track, say),
        progress_reporter() as reporter,
        stop_on_signals(commands) as seen,
    ):

        def report(event: Event) -> None:
            last.note(event)
            reporter.report(event)

        def on_event(event: Event) -> None:
            report(event)
            if seen and isinstance(event, Progress) and not last.has_started:  # the trainer handles signals later
                raise InterruptedEarly(seen["signal"])

        if process is not None:
            follow_ranks(run, launch, process, report, seen)
        else:
            run_training(run, options.home, commands=commands, overrides=overrides, on_event=on_event)
    if options.json:
        print_json({"name": run.name, "path": str(run.path)} | last.values)
    elif not seen:
        say(f"chat with it: llm-workbench chat {run.name}, or llm-workbench sample {run.name} --prompt Once")
    return 128 + seen["signal"] if seen else 0


class InterruptedEarly(UserError):
    """A signal arrived while the data was prepared."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted before the first step; nothing to save.")
        self.exit_status = 128 + number


class LastMetrics:
    """The newest value of each metric, by its name in the events."""

    WANTED = (
        (Started, ("parameters", "total_steps", "device", "precision")),
        (StepLogged, ("loss", "tokens_seen", "grad_norm", "lr", "step_ms", "tokens_per_second", "total_flops", "mfu")),
        (Evaluated, ("validation_loss", "perplexity", "bits_per_byte")),
        (CoreEvaluated, ("core_metric",)),
        (MetricsLogged, ("metrics",)),
        (AnswersEvaluated, ("exact_answers", "kinds")),
        (Finished, ("step", "status", "elapsed", "reason")),
    )

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    @property
    def has_started(self) -> bool:
        """Whether training has started."""
        return "total_steps" in self.values

    def note(self, event: Event) -> None:
        for kind, names in self.WANTED:
            if isinstance(event, kind):
                self.values |= {name: getattr(event, name) for name in names}
