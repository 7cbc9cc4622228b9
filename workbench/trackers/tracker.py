"""What a tracker does, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol

from llm.errors import WrongUse
from llm.names import did_you_mean
from llm.run import Run
from workbench.trackers.metrics import Row


class Tracker(Protocol):
    """Receives the rows of a run in their order. Any method may raise; the tracker is then dropped.

    `can_rewind`: it can discard steps that it has. One that cannot gets a step only once a checkpoint holds it, so that
    no later roll-back or resume repeats it, and gets no step twice.
    """

    can_rewind: ClassVar[bool]

    @property
    def place(self) -> str:
        """Where the curves are, for a message."""

    def log(self, row: Row) -> None: ...

    def rewind(self, step: int) -> None:
        """Discard the steps after `step`."""

    def flush(self) -> None:
        """Make what was logged visible to readers. Called about once a second."""

    def close(self) -> None: ...


OpenTracker = Callable[[Run, Path], Tracker]


def open_tensorboard(run: Run, out: Path) -> Tracker:
    from workbench.trackers.tensorboard_tracker import TensorBoardTracker

    return TensorBoardTracker(run, out)


def open_wandb(run: Run, out: Path) -> Tracker:
    from workbench.trackers.wandb_tracker import WandbTracker

    return WandbTracker(run, out)


def open_trackio(run: Run, out: Path) -> Tracker:
    from workbench.trackers.trackio_tracker import TrackioTracker

    return TrackioTracker(run, out)


def open_csv(run: Run, out: Path) -> Tracker:
    from workbench.trackers.csv_tracker import CsvTracker

    return CsvTracker(run, out)


TRACKERS: dict[str, tuple[str, OpenTracker]] = {
    "tensorboard": ("tensorboard", open_tensorboard),
    "wandb": ("wandb", open_wandb),
    "trackio": ("trackio", open_trackio),
    "csv": ("", open_csv),
}
"""Name → the package it needs ("" for none), which is the name of the extra too, and the function that opens it."""


def parse_trackers(text: str) -> list[str]:
    """The names in a comma-separated list. WrongUse for an unknown one, or one whose package is missing."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise WrongUse(f"name a tracker: {', '.join(TRACKERS)}.")
    for name in names:
        if name not in TRACKERS:
            advice = did_you_mean(name, tuple(TRACKERS)) or f"use {', '.join(TRACKERS)}."
            raise WrongUse(f'there is no tracker "{name}"; {advice}')
    missing = [package for package, _ in map(TRACKERS.__getitem__, names) if package and find_spec(package) is None]
    if missing:
        raise WrongUse(f"{missing[0]} is not installed; install it: pip install 'llm-workbench[{missing[0]}]'.")
    return names


def default_folder(home: Path, name: str) -> Path:
    """The default folder of a tracker."""
    return home / "exports" / name


def places(names: Sequence[str], home: Path, out: Path | None) -> dict[str, Path]:
    """The folder of each tracker."""
    return {name: (out / name if out is not None else default_folder(home, name)) for name in names}
