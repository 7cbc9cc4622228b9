"""Sizes of presets: the choice by hand or by the speed of this machine, and its description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm.config import RunConfig, TrainConfig, load_preset, preset_sizes
from llm.config.sizes import MEDIUM, MachineSpeed, Size, choose_size, names_of
from workbench.formatting import format_flops

Measure = Callable[[RunConfig], MachineSpeed]


@dataclass(frozen=True)
class ChosenSize:
    """A size of a preset, the reason for it as a sentence, and the measured speed ("" for none)."""

    name: str
    reason: str
    rate: str = ""


@dataclass
class SelectedSizes:
    """The sizes on the Presets screen, by preset: `selected` by hand, or `measured` on this machine."""

    selected: dict[str, str] = field(default_factory=dict)
    measured: dict[str, ChosenSize] = field(default_factory=dict)

    def size_of(self, preset: str) -> str:
        """The size of a preset; "" until it is selected or measured."""
        measured = self.measured.get(preset)
        return self.selected.get(preset) or (measured.name if measured else "")

    def select_next(self, preset: str, sizes: Sequence[str]) -> None:
        """Select the size after the selected one, or none after the last."""
        cycle = ["", *sizes]
        self.selected[preset] = cycle[(cycle.index(self.selected.get(preset, "")) + 1) % len(cycle)]

    def describe(self, preset: str) -> str:
        """The size of a preset and how it was chosen."""
        if selected := self.selected.get(preset):
            return f"{selected} (z selects another)"
        if measured := self.measured.get(preset):
            return f"{measured.name}, by speed: {measured.rate or 'not measured'} (z selects another)"
        return "by measured speed (z selects one)"


def sized_preset(preset: str, home: Path, config: RunConfig) -> str:
    """The preset whose size depends on the speed of the machine in a run of `config`: `preset`, or its base, which may
    train first; "" for none. A length in another unit than minutes is the same work on every machine."""
    name = config.tune.base or preset
    train = load_preset(name, home).train if config.tune.base else config.train
    return name if train.minutes and preset_sizes(name, home) else ""


def choose_by_speed(preset: str, home: Path, train: TrainConfig, measure: Measure) -> ChosenSize:
    """The size for this machine, measured with steps of the preset in size medium on the device of `train`."""
    medium = load_preset(preset, home)
    measured = replace(medium.train, device=train.device, precision=train.precision, threads=train.threads)
    try:
        speed = measure(replace(medium, train=measured))
    except Exception as error:  # noqa: BLE001 - training reports the fault; the Presets screen waits for a size
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        return ChosenSize(MEDIUM, f"the speed of this machine cannot be measured ({reason}): size {MEDIUM}")
    sizes = preset_sizes(preset, home)
    chosen = choose_size(sizes, speed)
    is_fast = any(size.name == chosen and not size.below for size in sizes)
    rate = format_flops(speed.measured if is_fast else speed.unhindered)
    return ChosenSize(chosen, f"this machine trains at about {rate}: size {chosen}", rate)


def other_sizes(sizes: Iterable[Size], chosen: str) -> str:
    """The names of the sizes besides `chosen`: "small or large"."""
    return " or ".join(name for name in names_of(sizes) if name != chosen)


def size_entry(size: str) -> dict[str, str]:
    """The entry of the table `run` in `run.toml`; empty for a preset without sizes."""
    return {"size": size} if size else {}


def measure_with_torch(config: RunConfig) -> MachineSpeed:
    """Call `measure_machine`, which loads torch. Tests replace this function, to be independent of the machine."""
    from llm.training.machine_speed import measure_machine

    return measure_machine(config)
