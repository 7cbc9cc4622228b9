"""Which size of a preset this machine is given, and the sentences about it."""

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
    """A size of a preset and how it was chosen, in one sentence; `rate` is the measured speed, "" for none."""

    name: str
    reason: str
    rate: str = ""


@dataclass
class SelectedSizes:
    """The sizes of presets on the Presets screen, by name: `selected` by hand, or `measured` on this machine."""

    selected: dict[str, str] = field(default_factory=dict)
    measured: dict[str, ChosenSize] = field(default_factory=dict)

    def size_of(self, preset: str) -> str:
        """The size of a preset; "" until it is selected or measured."""
        measured = self.measured.get(preset)
        return self.selected.get(preset) or (measured.name if measured else "")

    def select_next(self, preset: str, sizes: Sequence[str]) -> None:
        """Select the size after the selected one, or none after the last."""
        cycle = ["", *sizes]
        following = cycle[(cycle.index(self.selected.get(preset, "")) + 1) % len(cycle)]
        self.selected[preset] = following

    def describe(self, preset: str) -> str:
        """The size of a preset and how it was chosen."""
        if selected := self.selected.get(preset):
            return f"{selected} (z selects another)"
        if measured := self.measured.get(preset):
            return f"{measured.name}, by speed: {measured.rate or 'not measured'} (z selects another)"
        return "by measured speed (z selects one)"


def sized_preset(preset: str, home: Path, config: RunConfig) -> str:
    """The preset whose size the speed of the machine chooses for a run of `config`: `preset` or its base, which may
    train first; "" for none. A length that is not in minutes is the same work on every machine."""
    name = config.tune.base or preset
    train = load_preset(name, home).train if config.tune.base else config.train
    return name if train.minutes and preset_sizes(name, home) else ""


def choose_by_speed(preset: str, home: Path, train: TrainConfig, measure: Measure) -> ChosenSize:
    """The size for this machine, measured with steps of the preset in size medium on the device of `train`."""
    usual = load_preset(preset, home)
    measured = replace(usual.train, device=train.device, precision=train.precision, threads=train.threads)
    try:
        speed = measure(replace(usual, train=measured))
    except Exception as error:  # noqa: BLE001 - if it is a fault, training says so; the Presets screen waits for a size
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
    """The entry of the table `run` of `run.toml`; empty for a preset without sizes."""
    return {"size": size} if size else {}


def measure_with_torch(config: RunConfig) -> MachineSpeed:
    """`measure_machine`, which loads torch. Tests replace it: they must not depend on the machine."""
    from llm.training.machine_speed import measure_machine

    return measure_machine(config)
