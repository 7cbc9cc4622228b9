"""Evaluation against its definition: token-weighted, in bits per byte of text, and leaving everything as it was."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llm.config import ModelConfig, TokenizerConfig, resolve_model
from llm.device import Plan
from llm.errors import UserError
from llm.events import Event, Progress
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer, build_tokenizer
from llm.training.evaluate import Evaluation, evaluate
from llm.training.run import run_training
from tests.draining import result_of

from .conftest import MakeRun

SEQ_LEN = 7
STORIES = [
    f"The {animal} ran to the {place}, and the {animal} was glad." for animal in ("fox", "hen") for place in "ab"
]
SPECIAL = "<|endoftext|>"


@dataclass
class Tokens:
    ids: NDArray[np.int64]
    name: str = "validation"
    bytes: int = 0
    bytes_scale: float = 1.0
    dtype: np.dtype[np.unsignedinteger] = field(default_factory=lambda: np.dtype("<u2"))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        return self.ids[start:stop].astype(self.dtype)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=283, special_tokens=(SPECIAL,)), STORIES)


@pytest.fixture(scope="module")
def split(tokenizer: Tokenizer) -> Tokens:
    return Tokens(np.array(tokenizer.encode(SPECIAL.join(STORIES * 3), special=True)))


@pytest.fixture
def model(tokenizer: Tokenizer) -> Transformer:
    config = ModelConfig(n_layer=1, d_model=12, n_head=2, context=11, dropout=0.4, init_std=0.5)
    made = Transformer(resolve_model(config, tokenizer.vocab_size))
    made.init_weights(torch.Generator().manual_seed(3))
    return made.train()


def evaluated(model: Transformer, split: Tokens, tokenizer: Tokenizer, batch_size: int, batches: int = 0) -> Evaluation:
    plan = Plan("cpu", "fp32", 1, False)
    return result_of(evaluate(model, split, tokenizer, plan, seq_len=SEQ_LEN, batch_size=batch_size, batches=batches))


def test_bits_per_byte_are_those_of_the_text_where_a_tokenizer_rewrites_it(
    model: Transformer, split: Tokens, tokenizer: Tokenizer
) -> None:
    """A text of twice the bytes that its tokens spell has half the bits per byte; the loss stays."""
    twice = Tokens(split.ids, bytes_scale=2.0)
    one, two = (evaluated(model, tokens, tokenizer, 3) for tokens in (split, twice))
    assert two.bits_per_byte == pytest.approx(one.bits_per_byte / 2)
    assert two.loss == one.loss


def test_loss_is_the_mean_over_tokens_and_bits_are_those_of_text(
    model: Transformer, split: Tokens, tokenizer: Tokenizer
) -> None:
    """The last batch is smaller than the others: a mean of batch means would weigh its tokens more."""
    nats, counts, text_nats, text_bytes = 0.0, 0, 0.0, 0
    special = set(tokenizer.special_tokens.values())
    model.eval()
    for start in range(0, len(split) - SEQ_LEN, SEQ_LEN):
        window = torch.from_numpy(split.ids[start : start + SEQ_LEN + 1])
        losses = F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="none").tolist()
        for target, loss in zip(window[1:].tolist(), losses, strict=True):
            nats, counts = nats + loss, counts + 1
            if target not in special:
                text_nats, text_bytes = text_nats + loss, text_bytes + len(tokenizer.token_bytes(target))
    windows = counts // SEQ_LEN
    assert windows % 4, "the last of the batches of 4 is not whole"
    found = evaluated(model, split, tokenizer, batch_size=4)
    assert found.tokens == counts
    assert found.loss == pytest.approx(nats / counts, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / counts), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(text_nats / math.log(2) / text_bytes, rel=1e-5)
    assert text_nats < nats and text_bytes > counts, "the text has special tokens, and tokens of several bytes"


@pytest.mark.parametrize("kind", ["char", "bpe", "sentencepiece"])
def test_bits_are_those_of_the_true_bytes_by_every_tokenizer(kind: Literal["char", "bpe", "sentencepiece"]) -> None:
    """A model that knows nothing: every target costs log2 of the vocabulary, of one text of known size."""
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=283, special_tokens=(SPECIAL,)), STORIES)
    documents = [tokenizer.encode(story) for story in STORIES]
    ids = np.array([token for document in documents for token in (tokenizer.separator, *document)])
    config = ModelConfig(n_layer=1, d_model=12, n_head=2, context=len(ids), tied_head=False)
    blank = Transformer(resolve_model(config, tokenizer.vocab_size))
    for weight in blank.parameters():
        torch.nn.init.zeros_(weight)
    plan = Plan("cpu", "fp32", 1, False)
    found = result_of(evaluate(blank, Tokens(ids), tokenizer, plan, seq_len=len(ids) - 1, batch_size=1, batches=0))
    bits = sum(map(len, documents)) * math.log2(tokenizer.vocab_size)
    assert found.bits_per_byte == pytest.approx(bits / len("".join(STORIES).encode()), rel=1e-6)


def test_nothing_is_drawn_and_the_mode_comes_back(model: Transformer, split: Tokens, tokenizer: Tokenizer) -> None:
    before = torch.get_rng_state()
    first, second = (evaluated(model, split, tokenizer, batch_size=3, batches=2) for _ in range(2))
    assert first == second, "no dropout, and the same windows every time"
    assert first.tokens == 2 * 3 * SEQ_LEN
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_too_little_text_is_an_error_and_no_loss_of_zero(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="too short for one window"):
        evaluated(model, Tokens(np.arange(SEQ_LEN)), tokenizer, batch_size=3)


def test_a_long_evaluation_tells_how_far_it_is(
    model: Transformer, split: Tokens, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.training.evaluate.SECONDS_BETWEEN_PROGRESS", 0.0)
    plan = Plan("cpu", "fp32", 1, False)
    told = list(evaluate(model, split, tokenizer, plan, seq_len=SEQ_LEN, batch_size=2, batches=0))
    last = evaluated(model, split, tokenizer, 2).tokens
    assert len(told) > 2 and [one.done for one in told] == sorted(one.done for one in told)
    assert {one.total for one in told} == {last} and told[-1].done == last
    stopped = evaluate(model, split, tokenizer, plan, seq_len=SEQ_LEN, batch_size=2, batches=0)
    next(stopped)
    assert not model.training
    stopped.close()
    assert model.training


def test_in_a_training_it_says_after_which_step(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.training.evaluate.SECONDS_BETWEEN_PROGRESS", 0.0)
    run = make_run("told", train__steps="4", evaluate__every="2", evaluate__train_too="true")
    events: list[Event] = []
    run_training(run, tmp_path, on_event=events.append)
    told = [event for event in events if isinstance(event, Progress) and event.stage.startswith("Evaluating")]
    assert [step for step, _ in itertools.groupby(event.step for event in told)] == [0, 2, 4]
    assert {event.stage for event in told} == {"Evaluating held-out text", "Evaluating training text"}
