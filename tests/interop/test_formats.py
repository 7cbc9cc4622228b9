"""Which formats a model fits: known from its configuration, and named with the way out where it does not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm.config import RunConfig, load_preset
from llm.config.schema import TokenizerConfig
from llm.errors import UserError
from llm.interop.export import export
from llm.interop.formats import FORMATS, fitting_formats
from llm.interop.preset_formats import describe_formats, formats_of
from llm.tokenizer import build_tokenizer
from tests.interop.runs_for_tests import SHAPE, SHAPES, bpe_tokenizer, make_run, source_of, text_of_all_kinds

FORMATS_OF_PRESETS = {
    "quickstart": "safetensors; with model.embedding_conv 0 also hf and gguf",
    "quickstart-chat": "safetensors; with model.embedding_conv 0 also hf and gguf",
    "shakespeare-char": "hf, safetensors",
    "cs336-assignment": "hf, gguf, safetensors",
    "cs336-lecture": "hf, gguf, safetensors",
    "gpt2-124m": "hf, gguf, nanogpt, safetensors",
    "tinystories-llama": "hf, gguf, llama2c, safetensors",
    "nanochat-base": "hf, safetensors",
}


@pytest.mark.parametrize("preset", FORMATS_OF_PRESETS)
def test_the_formats_of_a_preset_are_known_before_training(preset: str, home: Path) -> None:
    assert describe_formats(load_preset(preset, home)) == FORMATS_OF_PRESETS[preset]


def test_a_pattern_that_llama_cpp_lacks() -> None:
    assert describe_formats(RunConfig()) == "hf, safetensors; with tokenizer.pattern gpt4 also gguf"


def test_a_tokenizer_that_is_not_here_is_not_guessed(tmp_path: Path) -> None:
    tokenizer = TokenizerConfig(kind="sentencepiece", path=str(tmp_path / "missing.model"))
    assert describe_formats(replace(RunConfig(), tokenizer=tokenizer)) == ""


@pytest.mark.parametrize(
    "tokenizer",
    [
        TokenizerConfig(kind="byte"),
        TokenizerConfig(kind="char"),
        TokenizerConfig(kind="bpe", vocab_size=300),
        TokenizerConfig(kind="bpe", vocab_size=300, pattern="gpt2", special_tokens=()),
        TokenizerConfig(kind="sentencepiece", vocab_size=700),
    ],
    ids=lambda config: f"{config.kind} {config.pattern}",
)
def test_a_trained_tokenizer_fits_what_was_announced(tokenizer: Any) -> None:
    config = replace(RunConfig(), tokenizer=tokenizer)
    trained = build_tokenizer(tokenizer, [text_of_all_kinds(3000)])
    assert formats_of(config) == fitting_formats(replace(SHAPE, vocab_size=trained.vocab_size), trained)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("conv", [0, 4])
def test_the_way_out_is_one(name: str, conv: int, home: Path, tmp_path: Path) -> None:
    """What an error names as fitting can be written, and the field that it names is enough."""
    tokenizer = bpe_tokenizer(300)
    run = make_run(home, replace(SHAPES[name], embedding_conv=conv), tokenizer)
    source = source_of(run)
    without = fitting_formats(replace(source.shape, embedding_conv=0), tokenizer)
    named: set[str] = set()
    for format in FORMATS.values():
        try:
            for _ in export(source, format, "f32", tmp_path / format.name):
                pass
        except UserError as error:
            found = re.search(r"\. It fits (.+)\.$", str(error))
            assert found is not None
            named |= set(re.split(", | and ", found[1]))
            assert ("--model.embedding_conv 0" in str(error)) == (conv > 0 and format.name in without)
    assert named == {path.name for path in tmp_path.iterdir() if path.name in FORMATS}
