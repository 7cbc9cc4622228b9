"""Sizes of a preset: which fields they change, and which one a machine is given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm.config import diff, list_presets, load_preset, preset_sizes, resolve_model
from llm.config.sizes import MachineSpeed, Size, choose_size, names_of
from llm.errors import WrongUse
from llm.training.batch_plan import TRAINING_TIME_SHARE, resolve_batch_plan

TINY = Size("tiny", {}, below=1e9)
SMALL = Size("small", {}, below=1e10)
LARGE = Size("large", {}, above=1e12)
HUGE = Size("huge", {}, above=1e14)
SIZES = (LARGE, SMALL, HUGE, TINY)
OWN = """
purpose = "Mine."
[model]
d_model = 128
[train]
minutes = 3
[size.small]
below = 1e10
model = { d_model = 64 }
train = { batch_size = 2 }
"""


def write(home: Path, name: str, text: str) -> None:
    (home / "presets").mkdir(exist_ok=True)
    (home / "presets" / f"{name}.toml").write_text(text)


@pytest.mark.parametrize(
    ("measured", "unhindered", "size"),
    [
        (5e8, 5e8, "tiny"),
        (5e9, 5e9, "small"),
        (5e10, 5e10, "medium"),
        (5e12, 5e12, "large"),
        (5e15, 5e15, "huge"),
        (5e8, 5e10, "medium"),  # another program uses the processors at this moment
        (5e11, 5e12, "medium"),  # many processors that would have to share the work without loss
    ],
)
def test_a_machine_is_given_the_size_for_its_speed(measured: float, unhindered: float, size: str) -> None:
    assert choose_size(SIZES, MachineSpeed(measured, unhindered)) == size
    assert choose_size((), MachineSpeed(measured, unhindered)) == "medium"


def test_sizes_are_named_from_slow_to_fast() -> None:
    assert names_of(SIZES) == ["tiny", "small", "medium", "large", "huge"]
    assert names_of(()) == ["medium"]


def test_a_size_changes_its_fields_only_and_overrides_change_it(tmp_path: Path) -> None:
    write(tmp_path, "mine", OWN)
    medium, small = load_preset("mine", tmp_path), load_preset("mine", tmp_path, size="small")
    assert diff(medium, small) == [("model.d_model", 128, 64), ("train.batch_size", 8, 2)]
    assert load_preset("mine", tmp_path, size="medium") == medium
    assert load_preset("mine", tmp_path, [("model.d_model", "32")], size="small").model.d_model == 32
    preset = next(preset for preset in list_presets(tmp_path) if preset.mine)
    assert preset.sizes == ("small", "medium")


def test_sizes_are_not_inherited(tmp_path: Path) -> None:
    write(tmp_path, "wide", 'extends = "quickstart"\n[model]\nd_model = 384\n')
    assert not preset_sizes("wide", tmp_path) and preset_sizes("quickstart", tmp_path)
    with pytest.raises(WrongUse, match='wide has no size "small"; its only size is medium'):
        load_preset("wide", tmp_path, size="small")
    with pytest.raises(WrongUse, match='quickstart has no size "big"; its sizes are small, medium, large'):
        load_preset("quickstart", tmp_path, size="big")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[size]\nsmall = 3", r"size\.small: must be a table of fields \(in bad\.toml\)"),
        ("size = 3", "size: must be a table of sizes, not 3"),
        ("[size.medium]\nbelow = 1e9", r"size\.medium: is the preset itself"),
        ("[size.small]\nmodel = {}", r"size\.small: needs either below or above"),
        ("[size.small]\nbelow = 1e9\nabove = 1e8", r"size\.small: needs either below or above"),
        ("[size.small]\nbelow = true", r"size\.small: needs either below or above"),
        ("[size.small]\nbelow = 1e9\nmodel = { layers = 2 }", r"size\.small\.model\.layers: there is no such field"),
        ("[size.small]\nbelow = 1e9\nmodel = { n_head = 7 }", r"7 does not divide d_model"),
    ],
)
def test_a_fault_in_a_size_is_a_problem_of_the_preset(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "bad", text)
    (preset,) = [preset for preset in list_presets(tmp_path) if preset.mine]
    assert re.search(message, preset.problem), preset.problem


def test_every_size_of_quickstart_has_a_schedule_that_fits(tmp_path: Path) -> None:
    """At the speed from which a size is used it takes some hundred steps; the usual size is left below 150."""
    usual = load_preset("quickstart", tmp_path)
    sizes = {size.name: size for size in preset_sizes("quickstart", tmp_path)}
    assert list(sizes) == ["small", "large"]

    def steps(size: str, speed: float) -> int:
        config = load_preset("quickstart", tmp_path, size=size)
        resolve_model(config.model, config.tokenizer.vocab_size)
        return resolve_batch_plan(config, config.tokenizer.vocab_size, 1, flops_per_second=speed).steps

    assert usual.train.minutes == 2 and TRAINING_TIME_SHARE == 0.85
    assert steps("medium", sizes["small"].below) == pytest.approx(150, abs=5)
    assert steps("small", sizes["small"].below / 10) > 80
    assert steps("large", sizes["large"].above) > 300
