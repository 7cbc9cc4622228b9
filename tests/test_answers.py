"""Exact answers: the judge, and the replies that are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.answers import MAX_ANSWER_TOKENS, is_right, measure_answers, normalize
from llm.config.resolve import resolve_model
from llm.config.schema import DecodeConfig, ModelConfig
from llm.data.text.dialogues import KNOWN_WORDINGS, questions
from llm.engine import Engine
from llm.model.transformer import Transformer
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.chat_template import default_template
from tests.draining import result_of

ANSWERS = ("The kite was red.", "red")


@pytest.mark.parametrize("reply", ["The kite was red.", "the kite was red", "Kite was red!", "red", " Red. ", "a red"])
def test_right(reply: str) -> None:
    assert is_right(reply, ANSWERS)


@pytest.mark.parametrize(
    "reply", ["", "The kite was red and blue.", "The kite was blue.", "It is red", "reddish", "kite"]
)
def test_wrong(reply: str) -> None:
    assert not is_right(reply, ANSWERS)


def test_articles_inside_words_stay() -> None:
    assert normalize("An apple, a banana and the theater.") == "apple banana and theater"


def test_the_replies_that_are_judged_are_those_of_the_engine() -> None:
    """Questions of different lengths share the forward passes, and one is longer than the context."""
    plain = ByteTokenizer(("<|endoftext|>",))
    tokenizer = plain.with_chat_template(default_template(plain))
    config = resolve_model(
        ModelConfig(n_layer=1, d_model=24, n_head=3, context=200, init_std=0.4), tokenizer.vocab_size
    )
    model = Transformer(config).double()
    model.init_weights(torch.Generator().manual_seed(1))
    engine, template = Engine(model.eval(), tokenizer), tokenizer.chat_template
    assert template is not None
    asked = questions(KNOWN_WORDINGS, 18, seed=3)
    prompts = [template.prompt_ids(tokenizer, each.messages)[MAX_ANSWER_TOKENS - 200 :] for each in asked]
    assert max(map(len, prompts)) == 200 - MAX_ANSWER_TOKENS > min(map(len, prompts))
    params = DecodeConfig(temperature=0.0, max_tokens=MAX_ANSWER_TOKENS)
    alone = [completion.texts[0].strip() for completion in engine.complete(prompts, params)]
    found = result_of(measure_answers(engine, template, asked))
    assert found.replies == tuple(alone) and found.accuracy == 0.0
    known = [replace(one, answers=(reply, "?")) for one, reply in zip(asked, alone, strict=True)]
    found = result_of(measure_answers(engine, template, [*asked[:9], *known[9:]]))
    assert found.accuracy == 0.5 and found.questions == 18 and len(found.asked) == 9
