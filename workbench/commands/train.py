"""`train`, `resume` and `fork`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.config import RunConfig, check_name, diff, load_preset, resumed_config, with_overrides
from llm.config.check import LENGTHS
from llm.errors import UserError, WrongUse
from llm.events import CoreEvaluated, Evaluated, Event, Finished, Progress, Started, StepLogged
from llm.files import remove_directory
from llm.memory import memory_errors_as_user_errors
from llm.run import Run
from llm.run.checkpoints import newest_step
from llm.run.fork import check_fields, open_parent
from llm.run.fork import fork as make_fork
from llm.run.lock import RunBusy
from llm.run.log import last_event_of
from workbench.commands.options import add_command
from workbench.commands.output import print_json, say
from workbench.runs.trash import move_to_trash


def register(subparsers: Any) -> None:
    new = add_command(subparsers, "train", "train a new run of a preset", train, json=True, takes_fields=True)
    new.usage = (
        f"{new.prog} PRESET [--name NAME] [--fit MINUTES] [--no-start] [--home DIR] [--json] [--FIELD VALUE ...]"
    )
    new.add_argument("preset", metavar="PRESET", help="a preset's name, or a .toml file")
    new.add_argument("--name", help="the run's name (default: the preset's, with a number)")
    help = "shrink it to what this machine trains in so many minutes, and say what that changes"
    new.add_argument("--fit", type=float, metavar="MINUTES", help=help)
    help = "only make the run, to be trained by torchrun or on another machine"
    new.add_argument("--no-start", action="store_true", help=help)
    help = "go on with a run, perhaps for longer (--train.steps N)"
    again = add_command(subparsers, "resume", help, resume, json=True, takes_fields=True)
    again.usage = f"{again.prog} RUN [--keep-rate] [--home DIR] [--json] [--FIELD VALUE ...]"
    again.add_argument("run", metavar="RUN")
    help = "with a new length: keep the learning rate as it was last, instead of stretching the schedule"
    again.add_argument("--keep-rate", action="store_true", help=help)
    help = "train a new run that begins with the weights of another"
    split = add_command(subparsers, "fork", help, fork, json=True, takes_fields=True)
    split.usage = f"{split.prog} RUN[@STEP|@last|@best] [--name NAME] [--weights-only] [--json] [--FIELD VALUE ...]"
    split.add_argument("run", metavar="RUN[@STEP|@last|@best]")
    split.add_argument("--name", help="the new run's name (default: the parent's, with -fork and a number)")
    help = "leave the optimiser's state behind, and count the steps from 0"
    split.add_argument("--weights-only", action="store_true", help=help)


def train(options: argparse.Namespace) -> int:
    """Make a run and train it to its end."""
    config = load_preset(options.preset, options.home, options.overrides)
    if options.fit is not None:
        config = fit_to_machine(config, options)
    if options.name:
        run = Run.create(options.home, options.name, config)
    else:
        run = Run.create_numbered(options.home, Path(options.preset).stem, config)
    return print_new_run(run, options) if options.no_start else train_new(run, options)


def fit_to_machine(config: RunConfig, options: argparse.Namespace) -> RunConfig:
    """`config` made to fit this machine and the minutes asked for, as `f` on the Presets screen does."""
    from workbench.presets.estimate import USUAL_FLOPS, nearest_that_fits
    from workbench.presets.preflight import expected_speed

    if not 0 < options.fit < 1e7:
        raise WrongUse(f"--fit must be a number of minutes above 0, not {options.fit:g}.")
    speed = expected_speed(options.home, config)
    overrides = nearest_that_fits(config, speed.flops_per_second if speed else USUAL_FLOPS, options.fit)
    for path, value in overrides:
        say(f"to fit: --{path} {value}")
    return with_overrides(config, overrides)


def print_new_run(run: Run, options: argparse.Namespace) -> int:
    """Say how a run that was only made is trained."""
    if options.json:
        print_json({"name": run.name, "path": str(run.path)})
    else:
        print(run.path)
    say(
        f"{run.name} is made, and not started: llm-workbench resume {run.name}, or, on N GPUs of this machine, "
        f"torchrun --nproc-per-node N -m llm.train {shlex.quote(str(run.path))}"
    )
    return 0


def fork(options: argparse.Namespace) -> int:
    """Make a run of another's weights and train it to its end."""
    from llm.training.resume_checks import check_fork
    from workbench.commands.progress import with_progress

    parent = open_parent(options.home, options.run)
    config = with_overrides(parent.config, options.overrides)
    if options.name:
        check_name(options.name)
    check_fields(parent, config, weights_only=options.weights_only)
    with_progress(check_fork(parent, config, options.home))
    run = make_fork(options.home, parent, config, name=options.name or "", weights_only=options.weights_only)
    for path, before, after in diff(parent.config, run.config()):
        say(f"{path}: {before} → {after}")
    beginning = run.checkpoint().step
    say(f"it goes on at step {beginning:,}" if beginning else f"it takes the weights of {parent.reference}, at step 0")
    return train_new(run, options)


def train_new(run: Run, options: argparse.Namespace) -> int:
    """Train a run that was just made; it is taken away again if it cannot even begin."""
    say(f"training {run.name} in {run.path}")
    last = LastMetrics()
    try:
        return train_to_the_end(run, options, (), last)
    except RunBusy:
        raise  # somebody else trains it
    except UserError:
        if not last.has_started:
            discard(run, options.home)
        raise


def discard(run: Run, home: Path) -> None:
    """Take away a new run that never began to train. A fork, which has a checkpoint, goes to the trash: only there is
    a run with a checkpoint ever deleted."""
    with suppress(OSError):  # removed or moved meanwhile, or on a disk that refuses
        if any(run.checkpoint_directory.glob("step-*")):
            say(f"{run.name} never began, and was moved to {move_to_trash(home, run)}")
        elif not any(isinstance(event, Started) for event in run.events()):
            remove_directory(run.path)


def resume(options: argparse.Namespace) -> int:
    """Go on where a run stands. Whatever is wrong with the overrides is said before anything begins."""
    run = Run.open(options.home, options.run)
    overrides = tuple(options.overrides)
    check_length(run, resumed_config(run.config(), overrides), overrides)
    say(f"resuming {run.name} in {run.path}")
    return train_to_the_end(run, options, overrides + rate_overrides(run, options), LastMetrics())


def rate_overrides(run: Run, options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Say what a new length does to the learning rate; the overrides that keep it, where that is wanted."""
    with memory_errors_as_user_errors():
        from llm.training.extension import rate_change

        change = rate_change(run, options.overrides)
    if options.keep_rate:
        if change is None:
            raise WrongUse("--keep-rate needs a new length that is known beforehand, as --train.steps N sets it.")
        say(f"the learning rate stays at {change.last:.2e} to the end, step {change.total}")
        return change.keeping()
    if change is not None and change.is_jump:
        say(f"{change.describe()}; to keep it as it was instead, interrupt this and add --keep-rate")
    return ()


def check_length(run: Run, config: RunConfig, overrides: Sequence[tuple[str, str]]) -> None:
    """WrongUse where there is nothing left to train: the run has reached its length, and that step is saved."""
    end, done = last_event_of(run.path / "events.jsonl", Finished), newest_step(run.checkpoint_directory)
    if run.status().name != "finished" or end is None or done < end.step:
        return
    lengths = {f"train.{length}" for length in LENGTHS}
    in_steps = any(path == "train.steps" for path, _ in overrides)
    if not any(path in lengths for path, _ in overrides) or (in_steps and 0 < config.train.steps <= done):
        raise WrongUse(
            f"run {run.name} has reached its length, step {done}; extend it with --train.steps N, N > {done}."
        )


def train_to_the_end(
    run: Run, options: argparse.Namespace, overrides: tuple[tuple[str, str], ...], last: LastMetrics
) -> int:
    """Train in this process, telling how it goes; interrupted, it has saved. `last` takes in what is measured. Returns
    the exit status."""
    with memory_errors_as_user_errors():
        from llm.train import stopping_on_signals
        from llm.training.commands import CommandQueue
        from llm.training.run import run_training
    from workbench.commands.progress import progress_reporter

    commands = CommandQueue()
    with progress_reporter() as reporter, stopping_on_signals(commands) as seen:

        def on_event(event: Event) -> None:
            last.note(event)
            reporter.report(event)
            if (
                seen and isinstance(event, Progress) and not last.has_started
            ):  # the trainer, who obeys signals, has not begun yet
                raise InterruptedEarly(seen["signal"])

        run_training(run, options.home, commands=commands, overrides=overrides, on_event=on_event)
    if options.json:
        print_json({"name": run.name, "path": str(run.path)} | last.values)
    elif not seen:
        say(f"talk to it: llm-workbench chat {run.name}   or   llm-workbench sample {run.name} --prompt Once")
    return 128 + seen["signal"] if seen else 0


class InterruptedEarly(UserError):
    """A signal came while the data was being prepared: there is nothing to save."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted before the first step; there was nothing to save.")
        self.exit_status = 128 + number


class LastMetrics:
    """The newest value of each metric, under the name it has in the events."""

    WANTED = (
        (Started, ("parameters", "total_steps", "device", "precision")),
        (StepLogged, ("loss", "tokens_seen", "grad_norm", "lr", "step_ms", "tokens_per_second", "total_flops", "mfu")),
        (Evaluated, ("validation_loss", "perplexity", "bits_per_byte")),
        (CoreEvaluated, ("core_metric",)),
        (Finished, ("step", "status", "elapsed", "reason")),
    )

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    @property
    def has_started(self) -> bool:
        """Whether there was anything to train: the data were ready, and the model was built or restored."""
        return "total_steps" in self.values

    def note(self, event: Event) -> None:
        for kind, names in self.WANTED:
            if isinstance(event, kind):
                self.values |= {name: getattr(event, name) for name in names}
