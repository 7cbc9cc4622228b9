"""Configuration fields among the arguments of a command."""

from __future__ import annotations

import pytest

from llm.config import RunConfig, with_overrides
from llm.config.overrides import split_overrides
from llm.errors import ConfigError

OWN = ("--name", "--json", "--home", "--help")


def test_fields_in_every_spelling_and_order() -> None:
    line = "--train.lr 3e-4 quickstart --model.n-layer=6 --json --name x --model.bias --train.clip off"
    own, overrides = split_overrides(line.split(), OWN)
    assert own == ["quickstart", "--json", "--name", "x"]
    assert overrides == [("train.lr", "3e-4"), ("model.n_layer", "6"), ("model.bias", "true"), ("train.clip", "off")]


@pytest.mark.parametrize(
    ("words", "value"), [("--model.bias off", "off"), ("--model.bias=NO", "NO"), ("--model.bias", "true")]
)
def test_booleans_without_a_value(words: str, value: str) -> None:
    assert split_overrides(words.split(), OWN) == ([], [("model.bias", value)])


def test_a_boolean_does_not_swallow_the_preset() -> None:
    assert split_overrides(["--model.bias", "quickstart"], OWN) == (["quickstart"], [("model.bias", "true")])


def test_negative_and_empty_values() -> None:
    words = ["--schedule.lr-min", "-1", "--sample.prompt", "", "--sample.prompt=--x"]
    assert split_overrides(words, OWN)[1] == [
        ("schedule.lr_min", "-1"),
        ("sample.prompt", ""),
        ("sample.prompt", "--x"),
    ]


def test_an_unknown_flag_is_a_field_that_does_not_exist_with_or_without_a_value() -> None:
    for words in ("--no-start", "--no-start 1"):
        _, overrides = split_overrides(words.split(), OWN)
        with pytest.raises(ConfigError, match="no_start: there is no such field"):
            with_overrides(RunConfig(), overrides)


def test_every_missing_value_is_reported() -> None:
    with pytest.raises(ConfigError) as raised:
        split_overrides(["--train.lr", "--train.steps"], OWN)
    assert [problem.path for problem in raised.value.problems] == ["train.lr", "train.steps"]
