"""A preset with a base: the base run first, then the run that answers; and the measurement of its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm.run import Run, list_runs
from workbench import cli

BASE = """
purpose = "A base for tests."
[tokenizer]
kind = "byte"
[data]
corpus = "stories"
size_mb = 0.05
[model]
n_layer = 1
d_model = 16
n_head = 2
context = 256
[train]
steps = 3
batch_size = 2
device = "cpu"
threads = 1
[evaluate]
batches = 1
"""
CHAT = """
extends = "tiny"
[data]
corpus = "dialogues"
size_mb = 0.02
[tune]
stage = "sft"
base = "tiny"
[train]
steps = 2
"""


@pytest.fixture
def presets(home: Path) -> Path:
    (home / "presets").mkdir(parents=True)
    (home / "presets" / "tiny.toml").write_text(BASE)
    (home / "presets" / "tiny-chat.toml").write_text(CHAT)
    return home


def run_cli(home: Path, *arguments: str) -> int:
    return cli.main([*arguments, "--home", str(home)])


def test_the_base_is_trained_first_and_reused(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(presets, "train", "tiny-chat", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    run = Run.open(presets, "tiny-chat-1")
    assert record["name"] == "tiny-chat-1" and record["step"] == 2
    assert run.info()["parent"] == "tiny-1@3" and run.config().tune.base == "tiny"
    assert run_cli(presets, "train", "tiny-chat", "--name", "other") == 0
    assert {one.name for one in list_runs(presets)} == {"tiny-1", "tiny-chat-1", "other"}
    assert Run.open(presets, "other").info()["parent"] == "tiny-1@3"

    capsys.readouterr()
    assert run_cli(presets, "eval", "tiny-chat-1", "--answers", "--questions", "18", "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert answers["known_wordings"].keys() == {"accuracy", "kinds"} and answers["questions"] == 18
    assert len(answers["new_wordings"]["kinds"]) == 9 and 0 <= answers["new_wordings"]["accuracy"] <= 1
    assert run_cli(presets, "eval", "tiny-1", "--answers", "--questions", "9") == 0
    table = capsys.readouterr().out
    assert "follow-up" in table and table.splitlines()[-1].startswith("all")


def test_the_shape_reaches_the_base(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The base has the fields that fine-tuning cannot change, and is found again; the others are of the stage only."""
    wide = ["--model.d_model", "32", "--tokenizer.special_tokens", "<s>", "--train.lr", "0.001"]
    for name in ("a", "b"):
        assert run_cli(presets, "train", "tiny-chat", "--name", name, *wide) == 0
        assert Run.open(presets, name).info()["parent"] == "tiny-1@3"
    base = Run.open(presets, "tiny-1").config()
    assert (base.model.d_model, base.tokenizer.special_tokens) == (32, ("<s>",)) and base.train.lr != 0.001
    assert run_cli(presets, "train", "tiny-chat") == 0
    assert Run.open(presets, "tiny-chat-1").info()["parent"] == "tiny-2@3"


def test_a_convolution_is_added_after_the_base_and_removed_before_it(presets: Path) -> None:
    assert run_cli(presets, "train", "tiny-chat", "--model.embedding_conv", "3") == 0
    assert Run.open(presets, "tiny-1").config().model.embedding_conv == 0
    (presets / "presets" / "tiny.toml").write_text(BASE.replace("n_layer = 1", "n_layer = 1\nembedding_conv = 2"))
    assert run_cli(presets, "train", "tiny-chat", "--model.embedding_conv", "0", "--name", "plain") == 0
    assert Run.open(presets, "plain").info()["parent"] == "tiny-1@3"


def test_an_unfinished_base_is_resumed(presets: Path) -> None:
    assert run_cli(presets, "train", "tiny", "--train.steps", "1") == 0  # other settings: not the base
    assert run_cli(presets, "train", "tiny", "--no-start") == 0
    assert run_cli(presets, "train", "tiny-chat") == 0
    assert Run.open(presets, "tiny-chat-1").info()["parent"] == "tiny-2@3"


def test_a_preset_with_a_base_is_two_runs(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(presets, "train", "tiny-chat", "--no-start") == 2
    assert "two runs" in capsys.readouterr().err
    assert not list_runs(presets)
