"""What every kind promises: text comes back, special tokens are special only on request, ids are within the table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config.schema import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import StreamDecoder, Tokenizer, build_tokenizer
from llm.tokenizer.base import well_formed
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.ranks import LONGEST_BLANK, RankTokenizer

from .conftest import AWKWARD, awkward_text
from .reference import encode_reference

KINDS = ("byte", "char", "bpe", "sentencepiece")
any_text = awkward_text() | st.text(st.characters(exclude_categories=[]))


@given(any_text)
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_from_bytes_and_bpe(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for kind in ("byte", "bpe"):
        ids = tokenizers[kind].encode(text)
        assert tokenizers[kind].decode(ids) == well_formed(text)
        assert b"".join(map(tokenizers[kind].token_bytes, ids)) == well_formed(text).encode()
        assert all(0 <= token_id < tokenizers[kind].vocab_size for token_id in ids)


def test_surrogates_become_what_utf8_can_hold(tokenizers: dict[str, Tokenizer]) -> None:
    for kind in KINDS:
        decoded = tokenizers[kind].decode(tokenizers[kind].encode("a\ud800b \ud83d\ude00 \udc00"))
        assert decoded == "a\ufffdb 😀 \ufffd"


@given(st.text(st.sampled_from("abc é你😀\n"), max_size=50))
def test_characters_come_back_within_their_alphabet(text: str) -> None:
    tokenizer = CharTokenizer("abc é你😀\n", ["<|endoftext|>"])
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_an_unknown_character_decodes_to_the_replacement_character() -> None:
    tokenizer = CharTokenizer("ab")
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode("aXb") == [0, 2, 1]
    assert tokenizer.decode([0, 2, 1]) == "a\ufffdb"


def test_the_alphabet_is_that_of_the_whole_training_text() -> None:
    config = TokenizerConfig(kind="char", special_tokens=(), train_mb=1e-6)
    assert build_tokenizer(config, ["hello", "world"]).vocab_size == len(set("helloworld")) + 1


@given(any_text)
@settings(max_examples=40, deadline=None)
def test_any_text_comes_back_from_sentencepiece(tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers["sentencepiece"]
    text = well_formed(text).replace("▁", "_")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.sampled_from([*AWKWARD, "the", " fox", "ing", "从前", "狐狸"]), max_size=60).map("".join))
@settings(max_examples=60, deadline=None)
def test_tiktoken_encodes_as_the_definition_does(tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers["bpe"]
    assert isinstance(tokenizer, RankTokenizer)
    ranks = {tokenizer.token_bytes(rank): rank for rank in range(tokenizer.vocab_size - 1)}
    assert tokenizer.encode(text) == list(encode_reference(text, ranks, tokenizer.pattern))


@given(st.lists(any_text, max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_batch_is_each_text_by_itself(tokenizers: dict[str, Tokenizer], texts: list[str]) -> None:
    for tokenizer in tokenizers.values():
        for threads in (0, 1):
            batch = tokenizer.encode_batch(texts, threads=threads)
            assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
            assert all(ids.dtype == np.uint32 for ids in batch)


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_special_tokens_are_text_unless_asked_for(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    text = "fox <|endoftext|> eat"
    end = tokenizer.special_tokens["<|endoftext|>"]
    assert tokenizer.separator == end
    assert tokenizer.stop_ids == {end}
    assert end not in tokenizer.encode(text)
    if kind != "char":
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with_special = tokenizer.encode(text, special=True)
    assert with_special == [*tokenizer.encode("fox "), end, *tokenizer.encode(" eat")]
    assert tokenizer.decode(with_special) == "fox  eat"
    assert tokenizer.token_bytes(end) == b""


def test_of_two_special_tokens_that_begin_alike_the_longer_is_meant() -> None:
    tokenizer = ByteTokenizer(["<|a|>", "<|a|><|b|>", "x"])
    assert tokenizer.encode("<|a|><|b|><|a|>", special=True) == [257, 256]
    assert tokenizer.encode("", special=True) == []


def test_without_special_tokens_there_is_no_separator() -> None:
    tokenizer = ByteTokenizer()
    assert (tokenizer.vocab_size, tokenizer.separator, tokenizer.stop_ids) == (256, None, frozenset())
    assert tokenizer.encode("a", special=True) == [97]


def test_ids_outside_the_vocabulary_say_nothing(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        assert tokenizer.token_bytes(tokenizer.vocab_size) == tokenizer.token_bytes(-1) == b""
        assert tokenizer.decode([10**9]) == ""


def test_the_vocabulary_counts_special_tokens_and_what_was_learned() -> None:
    specials = ("<|endoftext|>", "<|user|>", "<|reply|>")
    assert build_tokenizer(TokenizerConfig(vocab_size=300, special_tokens=specials), ["abc abd " * 99]).vocab_size < 300
    full = build_tokenizer(TokenizerConfig(vocab_size=262, special_tokens=specials), ["the theatre is there"])
    assert full.vocab_size == 262
    assert list(full.special_tokens.items()) == [("<|endoftext|>", 259), ("<|user|>", 260), ("<|reply|>", 261)]
    assert full.separator == 259


def test_a_vocabulary_too_small_for_bytes_and_special_tokens_is_refused_with_the_least() -> None:
    with pytest.raises(UserError, match="257 or more"):
        build_tokenizer(TokenizerConfig(vocab_size=256), ["text"])


@pytest.mark.parametrize("texts", [("",), ("<a>", "<b>", "<a>")])
def test_empty_and_repeated_special_tokens_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        build_tokenizer(TokenizerConfig(special_tokens=texts), ["text"])


def test_training_reads_only_the_requested_amount_of_text() -> None:
    config = TokenizerConfig(vocab_size=400, train_mb=1e-5, train_sample="beginning", special_tokens=())
    assert (
        build_tokenizer(config, ["ab" * 5, "zz" * 1000]).fingerprint()
        == build_tokenizer(config, ["ab" * 5]).fingerprint()
    )
    assert build_tokenizer(config, ["ab" * 5000]).fingerprint() == build_tokenizer(config, ["ab" * 5]).fingerprint()


@pytest.mark.parametrize("unit", ["a", " ", "\n", " \n", "!", "1", "你", "'"])
def test_a_million_times_the_same_is_encoded(tokenizers: dict[str, Tokenizer], unit: str) -> None:
    text = unit * (1_100_000 // len(unit)) + "b"
    assert tokenizers["bpe"].decode(tokenizers["bpe"].encode(text)) == text


def test_long_blanks_do_not_defeat_the_pattern_of_gpt2(gpt2: Tokenizer) -> None:
    text = " \n" * LONGEST_BLANK + "b"
    assert gpt2.decode(gpt2.encode(text)) == gpt2.decode(gpt2.encode_batch([text])[0].tolist()) == text


def test_decoding_bytes_that_are_not_utf8(tokenizers: dict[str, Tokenizer]) -> None:
    broken = [0xE4, 0xBD, ord("a"), 0xFF, 0xF0, 0x9F]
    expected = bytes(broken).decode(errors="replace")
    for kind in ("byte", "bpe"):
        assert tokenizers[kind].decode(broken) == expected


ids_of_500 = st.lists(
    st.integers(min_value=-1, max_value=520) | st.integers(min_value=0xE0, max_value=0xF8), max_size=40
)


@given(ids_of_500)
@settings(max_examples=60, deadline=None)
def test_streaming_gives_the_same_text_as_decoding_at_once(tokenizers: dict[str, Tokenizer], ids: list[int]) -> None:
    for tokenizer in tokenizers.values():
        stream = StreamDecoder(tokenizer)
        pieces = [stream.feed(token_id) for token_id in ids]
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


@given(any_text)
@settings(max_examples=40, deadline=None)
def test_streaming_never_shows_half_a_character(tokenizers: dict[str, Tokenizer], text: str) -> None:
    text = well_formed(text).replace("\ufffd", "").replace("▁", "")
    for kind in ("byte", "bpe", "sentencepiece"):
        stream = StreamDecoder(tokenizers[kind])
        shown = ""
        for token_id in tokenizers[kind].encode(text):
            shown += stream.feed(token_id)
            assert text.startswith(shown)
        assert shown == text
        assert stream.finish() == ""


def test_a_character_appears_with_its_last_byte() -> None:
    stream = StreamDecoder(ByteTokenizer())
    assert [stream.feed(value) for value in "你😀".encode()] == ["", "", "你", "", "", "", "😀"]
    assert stream.feed(0xE4) + stream.finish() == "\ufffd"


def test_characters_that_a_character_vocabulary_lacks_are_reported() -> None:
    tokenizer = build_tokenizer(TokenizerConfig(kind="char"), ["hello world"])
    assert tokenizer.prompt_changes("hello<|endoftext|>") == ""
    assert "1 character that the training text does not have ('é')" in tokenizer.prompt_changes("héllé")
    many = tokenizer.prompt_changes("ABCDEFGHIJ")
    assert "10 different characters" in many
    assert "'H', …)" in many


def test_decoding_keeps_special_tokens_when_asked(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        name, token = next(iter(tokenizer.special_tokens.items()))
        ids = [token, *tokenizer.encode("The fox"), token, token, *tokenizer.encode("a")]
        assert tokenizer.decode(ids, special=True) == f"{name}The fox{name}{name}a"
        assert tokenizer.decode(ids) == "The foxa"
        assert tokenizer.decode([], special=True) == ""
