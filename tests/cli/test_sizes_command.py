"""`train --size`, and the size that the speed of a machine chooses."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.config import RunConfig, check, load_preset
from llm.config.sizes import MachineSpeed
from llm.run import Run
from llm.training.base_run import find_base_run, with_size_of
from workbench import cli

from .test_chat_preset import BASE, CHAT

SIZES = """
[size.small]
below = 1e9
model = { d_model = 8 }
optim = { matrix_lr = 0.5 }
[size.large]
above = 1e11
model = { n_layer = 2, d_model = 32 }
data = { size_mb = 0.06 }
train = { batch_size = 3 }
"""
TIMED = BASE.replace("steps = 3", "minutes = 0.0001")
QUICK_CHAT = CHAT.replace("[train]\nsteps = 2", "[train]\nbatch_size = 4\nsteps = 2")


@pytest.fixture
def presets(home: Path) -> Path:
    (home / "presets").mkdir(parents=True)
    (home / "presets" / "tiny.toml").write_text(TIMED + SIZES)
    (home / "presets" / "tiny-chat.toml").write_text(QUICK_CHAT)
    return home


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that were measured, on a fast machine."""
    measured: list[RunConfig] = []

    def measure(config: RunConfig) -> MachineSpeed:
        measured.append(config)
        return MachineSpeed(2e12, 3e12)

    monkeypatch.setattr("workbench.commands.train.measure_with_torch", measure)
    return measured


def train(home: Path, *arguments: str) -> int:
    return cli.main(["train", *arguments, "--home", str(home)])


def test_the_measured_speed_chooses_the_size(
    presets: Path, measured: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(presets, "tiny", "--model.n_layer", "1", "--train.seed", "5") == 0
    run = Run.open(presets, "tiny-1")
    assert run.info()["size"] == "large"
    assert (run.config().model.n_layer, run.config().model.d_model, run.config().train.batch_size) == (1, 32, 3)
    assert "this machine trains at about 2 TFLOP/s: size large; --size small or medium" in capsys.readouterr().err
    assert measured == [load_preset("tiny", presets)], "the preset as it is"


def test_nothing_is_measured_where_the_size_is_given_or_the_length_is_not_in_minutes(
    presets: Path, measured: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(presets, "tiny", "--size", "small", "--no-start") == 0
    assert train(presets, "tiny", "--train.steps", "3", "--no-start", "--name", "steps") == 0
    assert train(presets, "tiny", "--train.steps", "1") == 0
    assert train(presets, "tiny", "--no-start", "--name", "later") == 0
    assert train(presets, "tiny", "--size", "huge", "--no-start") == 2
    assert "its sizes are small, medium, large" in capsys.readouterr().err
    small = Run.open(presets, "tiny-1")
    assert small.info()["size"] == "small" and small.config() == load_preset("tiny", presets, size="small")
    assert not measured
    for name in ("steps", "tiny-2", "later"):
        assert Run.open(presets, name).config().model.d_model == 16 and "size" not in Run.open(presets, name).info()


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_a_speed_that_cannot_be_measured_leaves_the_usual_size(
    presets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    def measure(config: RunConfig) -> MachineSpeed:
        raise kind("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("workbench.commands.train.measure_with_torch", measure)
    assert train(presets, "tiny") == 0
    assert Run.open(presets, "tiny-1").info()["size"] == "medium"
    assert "cannot be measured (CUDA out of memory): size medium" in capsys.readouterr().err


def test_a_stage_takes_the_shape_of_its_base_of_any_size(presets: Path, measured: list[RunConfig]) -> None:
    """The base is trained in the size for this machine, and found again; what the stage sets itself stays."""
    assert train(presets, "tiny-chat") == 0
    assert Run.open(presets, "tiny-1").info()["size"] == "large" and len(measured) == 1
    chat = Run.open(presets, "tiny-chat-1")
    assert (chat.config().model.n_layer, chat.config().model.d_model) == (2, 32)
    assert (chat.config().train.batch_size, chat.config().data.size_mb) == (4, 0.02)
    config = load_preset("tiny-chat", presets)
    found = find_base_run(presets, config)
    assert found is not None and found.name == "tiny-1"
    assert find_base_run(presets, config, "large") is not None and find_base_run(presets, config, "small") is None


def test_a_base_of_another_size_is_trained_where_that_is_given(presets: Path, measured: list[RunConfig]) -> None:
    base = Run.create(presets, "tiny-1", load_preset("tiny", presets, size="large"))
    assert train(presets, "tiny-chat", "--size", "small") == 0
    assert not measured and not base.checkpoints()
    chat = Run.open(presets, "tiny-chat-1")
    assert chat.info()["parent"].startswith("tiny-2@") and Run.open(presets, "tiny-2").info()["size"] == "small"
    assert (chat.config().model.d_model, chat.config().optim.matrix_lr) == (8, 0.5)


@pytest.mark.parametrize("size", ["small", "large"])
def test_quickstart_chat_takes_the_shape_of_either_size(home: Path, size: str) -> None:
    base, chat = load_preset("quickstart", home, size=size), load_preset("quickstart-chat", home)
    config = with_size_of(chat, load_preset("quickstart", home), base)
    assert check(config) == []
    assert config.model == base.model != chat.model
    assert config.train.batch_size == base.train.batch_size
    assert (config.train.lr, config.train.minutes, config.data) == (chat.train.lr, chat.train.minutes, chat.data)
