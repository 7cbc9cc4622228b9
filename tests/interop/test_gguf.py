"""GGUF files run by the real llama.cpp: log-probabilities, ids, greedy text, perplexity."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llm.config import DecodeConfig
from llm.engine import Engine
from llm.errors import UserError
from llm.interop.export import export
from llm.interop.formats import FORMATS
from llm.interop.tokenizer_json import FOREIGN_PATTERNS
from llm.model.kernels import FUSED
from llm.model.layers import use_kernels
from llm.run import Run
from llm.tokenizer import RankTokenizer
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.patterns import CL100K_PATTERN, O200K_PATTERN
from llm.tokenizer.spm import SentencePieceTokenizer
from llm.weights import load_model
from tests.interop.llama_cpp_for_tests import LlamaCpp
from tests.interop.runs_for_tests import (
    END,
    NANOCHAT,
    SHAPE,
    SHAPES,
    bpe_tokenizer,
    make_run,
    source_of,
    text_of_all_kinds,
)

FORMAT = FORMATS["gguf"]
LONG = pytest.param(1_000_000, 200, marks=pytest.mark.slow)


def engine_of(run: Run, folder: Path, dtype: str = "f32") -> LlamaCpp:
    list(export(source_of(run), FORMAT, dtype, folder))
    source = source_of(run)
    return LlamaCpp(next(folder.glob("*.gguf")), source.shape.context, source.tokenizer.encode("e")[0])


def table_gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU as llama.cpp computes it on a CPU, also in float32: by a table in float16."""
    return torch.where(x.abs() < 10, F.gelu(x.half().float(), approximate="tanh").half().float(), x.relu())


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "llama in halves, untied, with biases",
        "llama with the other rotation",
        "llama with wide heads",
        "qwen3",
        "qwen3 without gains",
        "gpt2",
    ],
)
def test_log_probabilities(name: str, home: Path, tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer(400, "gpt2")
    run = make_run(home, SHAPES[name], tokenizer)
    ours, _ = load_model(run, run.checkpoint())
    if name == "gpt2":
        use_kernels(ours, replace(FUSED, gelu=table_gelu))
    prompt = tokenizer.encode(text_of_all_kinds(300))[:60]
    theirs = engine_of(run, tmp_path / "out").log_probabilities(prompt, ours.config.vocab_size)
    expected = torch.log_softmax(ours(torch.tensor([prompt]))[0, -1], -1)
    assert (theirs - expected).abs().max() <= 1e-5


def tokenizer_of(kind: str) -> Any:
    if kind == "byte":
        return ByteTokenizer((END,))
    if kind == "sentencepiece":
        return SentencePieceTokenizer.train([text_of_all_kinds(seed=2)], 700)
    if kind == "qwen":  # as an import reads it
        trained: Any = bpe_tokenizer(600, "gpt4")
        return RankTokenizer("bpe", trained.ranks, trained.special_tokens, FOREIGN_PATTERNS["Qwen"])
    return bpe_tokenizer(600, kind)


@pytest.mark.parametrize(("size", "count"), [(10_000, 40), LONG])
@pytest.mark.parametrize("kind", ["byte", "sentencepiece", "gpt2", "gpt4", "qwen"])
def test_ids_and_greedy_text(kind: str, size: int, count: int, home: Path, tmp_path: Path) -> None:
    """The embedding has more rows than there are tokens."""
    tokenizer = tokenizer_of(kind)
    run = make_run(home, replace(SHAPE, vocab_size=tokenizer.vocab_size + 5), tokenizer)
    theirs = engine_of(run, tmp_path / "out")
    text = text_of_all_kinds(size)
    assert theirs.tokenize(text, special=False) == tokenizer.encode(text)
    special = next(iter(tokenizer.special_tokens))
    mixed = special.join(text_of_all_kinds(size // 100, seed) for seed in range(100))
    assert theirs.tokenize(mixed, special=True) == tokenizer.encode(mixed, special=True)
    model, _ = load_model(run, run.checkpoint())
    prompt = tokenizer.encode("Once upon a time")
    without = [*tokenizer.special_tokens.values(), *range(tokenizer.vocab_size, model.config.vocab_size)]
    greedy = DecodeConfig(
        temperature=0.0, max_tokens=count, banned_tokens=tuple(map(str, tokenizer.special_tokens.values()))
    )
    pieces = list(Engine(model, tokenizer).stream("Once upon a time", greedy))[:-1]
    expected = tokenizer.decode(piece.token_id for piece in pieces)
    assert theirs.greedy_text(prompt, count, without).strip() == expected.strip()


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [("q8_0", 0.005), ("f16", 0.005), ("bf16", 0.005), ("q4_0", 0.05)])
def test_perplexity_of_a_trained_model(
    dtype: str, tolerance: float, trained_run: Run, corpus: Path, tmp_path: Path
) -> None:
    theirs = engine_of(trained_run, tmp_path / "out", dtype)
    ours, tokenizer = load_model(trained_run, trained_run.checkpoint())
    ids = tokenizer.encode(corpus.read_text(encoding="utf-8")[-400:])[:30]
    expected = F.cross_entropy(ours(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]))
    rows = ours.config.vocab_size
    found = [float(theirs.log_probabilities(ids[:place], rows)[ids[place]]) for place in range(1, len(ids))]
    assert math.exp(-sum(found) / len(found)) == pytest.approx(math.exp(expected), rel=tolerance)


@pytest.mark.parametrize(
    ("shape", "tokenizer", "message"),
    [
        (NANOCHAT, ByteTokenizer((END,)), "no architecture for this model: .*It fits hf"),
        (SHAPES["gpt2 without biases"], ByteTokenizer((END,)), "model.mlp = gelu, not gelu-exact"),
        (SHAPE, bpe_tokenizer(300, "ours"), "no name for this tokenizer's split pattern"),
        (SHAPE, bpe_tokenizer(300, CL100K_PATTERN), "no name for this tokenizer's split pattern"),
        (SHAPE, bpe_tokenizer(300, O200K_PATTERN), "no name for this tokenizer's split pattern"),
        (SHAPE, CharTokenizer("abc", (END,)), "no tokenizer of kind char"),
        (SHAPE, SentencePieceTokenizer.train([text_of_all_kinds(2000)], 500, "unigram"), "is a unigram model"),
    ],
)
def test_what_llama_cpp_lacks_is_refused(shape: Any, tokenizer: Any, message: str, home: Path, tmp_path: Path) -> None:
    run = make_run(home, shape, tokenizer)
    with pytest.raises(UserError, match=message):
        list(export(source_of(run), FORMAT, "f16", tmp_path / "out"))


def test_rows_that_are_not_whole_blocks_are_refused(home: Path, tmp_path: Path) -> None:
    run = make_run(home, SHAPE, ByteTokenizer((END,)))
    with pytest.raises(UserError, match=r"q8_0 stores blocks of 32 numbers, but model\.d_model is 24"):
        list(export(source_of(run), FORMAT, "q8_0", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_without_the_package_the_extra_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    run = make_run(home, SHAPE, ByteTokenizer((END,)))
    with pytest.raises(UserError, match=r"pip install 'llm-workbench\[gguf\]'"):
        list(export(source_of(run), FORMAT, "f16", tmp_path / "out"))
