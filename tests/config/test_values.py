"""Parsing of single values, and the messages for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from llm.config import RunConfig, fields_of, get_value, parse_value

FIELDS = {field.path: field for field in fields_of(RunConfig)}


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.steps", "1_000", 1000),
        ("train.steps", "1e3", 1000),
        ("train.lr", "3e-4", 3e-4),
        ("train.lr", "1", 1.0),
        ("train.epochs", "1.5", 1.5),
        ("model.norm_gain", "off", False),
        ("model.norm_gain", "Yes", True),
        ("optim.kind", "muon", "muon"),
        ("sample.prompt", " Once  ", " Once  "),
        ("tokenizer.special_tokens", "<a>, <b>", ("<a>", "<b>")),
        ("tokenizer.special_tokens", '["a,b", "c"]', ("a,b", "c")),
        ("tokenizer.special_tokens", "", ()),
        ("decode.stop", "\n\n", ("\n\n",)),
    ],
)
def test_valid_text(path: str, text: str, value: Any) -> None:
    parsed = parse_value(FIELDS[path], text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("train.steps", "5k", 'must be a whole number, not "5k"'),
        ("train.steps", "1.5", "must be a whole number, not 1.5"),
        ("train.steps", "-1", "must be at least 0, not -1"),
        ("train.steps", "1e300", "must be at most 9223372036854775807"),
        ("train.lr", "nan", "must be a finite number, not nan"),
        ("train.lr", "0", "must be above 0, not 0"),
        ("model.dropout", "1", "must be at most 0.95, not 1"),
        ("model.norm_gain", "maybe", 'must be true or false (on/off, yes/no), not "maybe"'),
        ("optim.kind", "adam", 'must be one of adamw, sgd, muon, not "adam"; did you mean adamw?'),
        ("sample.prompt", "\udcff", "holds bytes that are not UTF-8 text"),
        ("data.corpus", "text\0.txt", "holds a NUL byte"),
        ("tokenizer.special_tokens", "[1, 2]", "must be a list of strings, not [1, 2]"),
        ("tokenizer.special_tokens", '["a', "is not a list"),
    ],
)
def test_invalid_text(path: str, text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_value(FIELDS[path], text)
    assert sentence in str(raised.value)


def test_every_field_has_a_help_text_and_a_valid_default() -> None:
    assert len(FIELDS) > 80
    for path, field in FIELDS.items():
        assert field.help.endswith((".", "…")), path
        assert field.default == get_value(RunConfig(), path), path
        assert field.path == f"{field.section}.{field.name}".lstrip(".")


def test_metadata_reaches_the_field() -> None:
    clip = FIELDS["train.clip"]
    assert (clip.type, clip.low, clip.live, clip.safe) == (float, 0, True, True)
    assert FIELDS["model.mlp"].choices == ("swiglu", "gelu", "gelu-exact", "relu2")
    assert not FIELDS["model.n_layer"].safe
