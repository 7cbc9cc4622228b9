"""Chinese through byte-level tokens that split characters: prompts, streams, edits and replays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig, TokenizerConfig
from llm.engine import Done, Engine, Piece
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer, build_tokenizer

PROMPT = "从前有一只小狐狸。它问："
REPLY = "“你好吗？”𠮷野家的龘很难写，但是😀也可以。"
CORPUS = ["从前有一只小狐狸。狐狸说：“我饿了，我们吃吧！”它们吃了浆果。你们也吃吗？一二三四五六七\n"] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Few merges: common characters are one token, most are two or three, and some merges end within a character."""
    found = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=300), CORPUS)
    halves = [token for token in found.encode(PROMPT + REPLY) if "\ufffd" in found.decode([token])]
    assert len(halves) > 20, "the tokens must split characters"
    return found


class Recital(Transformer):
    """A model that continues a prompt of `skip` tokens with the tokens it was given, then with the end of the text."""

    def __init__(self, tokenizer: Tokenizer, script: list[int], skip: int) -> None:
        size = tokenizer.vocab_size
        super().__init__(ModelConfig(n_layer=1, d_model=8, n_head=1, n_kv_head=1, d_ff=8, context=999, vocab_size=size))
        self.script, self.skip = [*script, min(tokenizer.stop_ids)], skip
        self.eval()

    def forward(self, tokens, cache=None, *, last_only=False):  # type: ignore[no-untyped-def]
        length = tokens.shape[1] + (0 if cache is None else cache.length)
        if cache is not None:
            cache.advance(tokens.shape[1])
        logits = torch.full((tokens.shape[0], 1, self.config.vocab_size), -50.0)
        logits[..., self.script[min(max(length - self.skip, 0), len(self.script) - 1)]] = 50.0
        return logits


def reciting(tokenizer: Tokenizer, prompt: str, reply: str) -> Engine:
    return Engine(Recital(tokenizer, tokenizer.encode(reply), len(tokenizer.encode(prompt))), tokenizer)


def random_engine(tokenizer: Tokenizer) -> Engine:
    """Random weights: the bytes of its replies are hardly ever whole characters."""
    config = ModelConfig(n_layer=2, d_model=24, n_head=3, n_kv_head=3, d_ff=40, context=64, init_std=0.4)
    model = Transformer(replace(config, vocab_size=tokenizer.vocab_size))
    model.init_weights(torch.Generator().manual_seed(3))
    return Engine(model.eval(), tokenizer)


def pieces_of(engine: Engine, prompt: str | list[int], params: DecodeConfig) -> list[Piece]:
    *pieces, done = engine.stream(prompt, params)
    assert isinstance(done, Done)
    return [piece for piece in pieces if isinstance(piece, Piece)]


PARAMS = DecodeConfig(temperature=1.0, max_tokens=200)


def test_a_prompt_becomes_the_tokens_of_its_text(tokenizer: Tokenizer) -> None:
    ids = random_engine(tokenizer).prompt_ids(PROMPT, PARAMS)
    assert ids == tokenizer.encode(PROMPT)
    assert tokenizer.decode(ids) == PROMPT
    assert len(ids) > len(PROMPT) / 2


def test_only_whole_characters_are_streamed(tokenizer: Tokenizer) -> None:
    pieces = pieces_of(reciting(tokenizer, PROMPT, REPLY), PROMPT, PARAMS)
    assert "".join(piece.text for piece in pieces) == REPLY
    assert any(piece.text == "" and not piece.reason for piece in pieces), "a character was waited for"
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert pieces[-1].reason == "stop"


@pytest.mark.parametrize("stop", ["很难", "😀", "龘"])
def test_a_stop_string_within_split_characters(tokenizer: Tokenizer, stop: str) -> None:
    pieces = pieces_of(reciting(tokenizer, PROMPT, REPLY), PROMPT, replace(PARAMS, stop=(stop,)))
    assert "".join(piece.text for piece in pieces) == REPLY[: REPLY.index(stop)]
    assert pieces[-1].reason == "stop"


def test_a_reply_that_ends_in_half_a_character_says_so_once(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("龘")
    assert len(ids) > 1
    pieces = pieces_of(reciting(tokenizer, PROMPT, "龘"), PROMPT, replace(PARAMS, max_tokens=len(ids) - 1))
    assert "".join(piece.text for piece in pieces) == "\ufffd"
    assert pieces[-1].reason == "length"


def test_an_edited_reply_continues_like_a_generated_one(tokenizer: Tokenizer) -> None:
    """Cut off after any token, also within a character, the rest of a reply completes it."""
    reply = tokenizer.encode(REPLY)
    begun = tokenizer.encode(PROMPT)
    for kept in range(len(reply)):
        engine = Engine(Recital(tokenizer, reply, len(begun)), tokenizer)
        pieces = pieces_of(engine, [*begun, *reply[:kept]], PARAMS)
        text = "".join(piece.text for piece in pieces)
        whole = b"".join(map(tokenizer.token_bytes, reply[:kept]))
        shown = whole.decode(errors="ignore")
        assert shown + text == REPLY, f"after {kept} tokens"


def test_an_edited_prompt_is_read_from_the_change_on(tokenizer: Tokenizer) -> None:
    """What the cache holds of another prompt, different in the middle of a character's bytes, is not taken for this."""
    engine, params = random_engine(tokenizer), replace(PARAMS, max_tokens=12)
    pieces_of(engine, PROMPT, params)
    edited = PROMPT.replace("狐狸", "狐狼")
    again = pieces_of(engine, edited, params)
    assert again == pieces_of(random_engine(tokenizer), edited, params)


def test_a_reply_is_replayed_from_prompt_parameters_and_seed(tokenizer: Tokenizer) -> None:
    for seed in range(5):
        params = replace(PARAMS, seed=seed, max_tokens=60, top_k=50)
        first = pieces_of(random_engine(tokenizer), PROMPT, params)
        again = pieces_of(random_engine(tokenizer), PROMPT, params)
        assert first == again
        tokens = [piece.token_id for piece in first if piece.token_id is not None]
        text = "".join(piece.text for piece in first)
        ended = tokens[-1] in tokenizer.stop_ids
        assert text == tokenizer.decode(tokens[:-1] if ended else tokens), "streamed and decoded at once are the same"
