"""tokenizer.json: the package `tokenizers` gives our ids for it, and we give the ids of files that others wrote."""

from __future__ import annotations

import json
import random
import unicodedata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llm.errors import UserError
from llm.interop.imported import find_tokenizer
from llm.interop.tokenizer_json import FOREIGN_PATTERNS, dump_tokenizer_json, parse_tokenizer_json
from llm.tokenizer import load_tokenizer
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.gpt2files import printable_bytes
from llm.tokenizer.spm import SentencePieceTokenizer
from tests.interop.runs_for_tests import END, bpe_tokenizer, text_of_all_kinds

TEXT = text_of_all_kinds(15_000)
LONG = pytest.param(1_000_000, marks=pytest.mark.slow)
COMPOSED = "é ﬁ Å 각 Ａ ① ṩ ệ"
SPECIAL = (END, "<|user|>")


def ours(kind: str) -> Any:
    sample = text_of_all_kinds(seed=2)
    if kind == "byte":
        return ByteTokenizer(SPECIAL)
    if kind == "char":
        return CharTokenizer.train([sample], SPECIAL)
    if kind.startswith("sentencepiece"):
        algorithm: Any = kind.split("-")[1]
        return SentencePieceTokenizer.train([sample], 700, algorithm)
    return bpe_tokenizer(600, kind, SPECIAL)


KINDS = ("byte", "char", "sentencepiece-bpe", "ours", "gpt2", "gpt4")


@pytest.mark.parametrize("size", [15_000, LONG])
@pytest.mark.parametrize("kind", KINDS)
def test_the_package_gives_our_ids(kind: str, size: int) -> None:
    tokenizer = ours(kind)
    theirs = Tokenizer.from_str(dump_tokenizer_json(tokenizer).decode())
    text = text_of_all_kinds(size)
    special = next(iter(tokenizer.special_tokens))
    mixed = f"{text[:1000]}{special}{text[1000:]}{special}{special}a"
    assert theirs.encode(mixed, add_special_tokens=False).ids == tokenizer.encode(mixed, special=True)
    ids = tokenizer.encode(text)
    assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte", "char", "ours", "gpt2", "gpt4"])
def test_reading_gives_the_tokenizer_back(kind: str) -> None:
    tokenizer = ours(kind)
    back, warning = parse_tokenizer_json(json.loads(dump_tokenizer_json(tokenizer)), END)
    assert (back.fingerprint(), warning) == (tokenizer.fingerprint(), "")


def test_short_texts_of_few_characters() -> None:
    """Runs of one character, where the order of merges matters most."""
    tokenizer = bpe_tokenizer(600)
    theirs = Tokenizer.from_str(dump_tokenizer_json(tokenizer).decode())
    draw = random.Random(4)
    for _ in range(1000):
        text = "".join(draw.choices("aab  \n=-", k=draw.randint(1, 40)))
        assert theirs.encode(text).ids == tokenizer.encode(text), text


@pytest.mark.parametrize("name", FOREIGN_PATTERNS)
def test_a_tokenizer_of_the_package_gives_its_ids_here(name: str) -> None:
    theirs = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(FOREIGN_PATTERNS[name]), "isolated")
    theirs.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    theirs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator([text_of_all_kinds(seed=2)], trainer)
    theirs.add_special_tokens(list(SPECIAL))
    tokenizer, _ = parse_tokenizer_json(json.loads(theirs.to_str()), END)
    assert tokenizer.separator == theirs.token_to_id(END)
    mixed = f"{TEXT}{END}x"
    assert tokenizer.encode(mixed, special=True) == theirs.encode(mixed).ids


def test_bytelevel_without_a_split_is_gpt2() -> None:
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    theirs.train_from_iterator([TEXT], trainer)
    tokenizer, _ = parse_tokenizer_json(json.loads(theirs.to_str()))
    assert tokenizer.encode(TEXT) == theirs.encode(TEXT).ids


RECORD = json.loads(dump_tokenizer_json(bpe_tokenizer(300)))
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "words": ({"model": {"type": "WordPiece", "vocab": {}}}, "holds WordPiece"),
    "unigram": ({"model": {"type": "Unigram", "vocab": []}}, "holds Unigram"),
    "digits": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}},
        "splits text by Digits",
    ),
    "pattern": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": r"\w+|\W"}},
                    {"type": "ByteLevel", "use_regex": False},
                ],
            }
        },
        r"splits text by \\w\+",
    ),
    "normalizer": ({"normalizer": {"type": "Lowercase"}}, "normalizes text by Lowercase"),
    "another form": ({"normalizer": {"type": "NFKC"}}, "normalizes text by NFKC"),
    "normalizers": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
        "normalizes text by NFC, Lowercase",
    ),
    "surrogates": (
        {"added_tokens": [{"id": 299, "content": "\ud800"}]},
        "is damaged .*surrogates not allowed",
    ),
    "prefix": ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
    "no vocabulary": ({"model": {"type": "BPE"}}, "is damaged"),
    "order of merges": ({"model": RECORD["model"] | {"merges": RECORD["model"]["merges"][::-1]}}, "out of the order"),
    "merge of no token": ({"model": RECORD["model"] | {"merges": [["Ġ", "ZZZ"]]}}, "which is no token"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_supported_is_named(fault: str) -> None:
    changes, message = FAULTS[fault]
    with pytest.raises(UserError, match=message):
        parse_tokenizer_json(RECORD | changes)


def test_a_normalization_is_applied_and_kept(tmp_path: Path) -> None:
    """`tokenizers` gives the same ids for composed and decomposed text, before and after a round trip."""
    record = RECORD | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}
    theirs = Tokenizer.from_str(json.dumps(record))
    read, warning = parse_tokenizer_json(record, END)
    read.save(tmp_path)
    for ours in (read, load_tokenizer(tmp_path), parse_tokenizer_json(json.loads(dump_tokenizer_json(read)), END)[0]):
        assert (ours.fingerprint(), warning) == (read.fingerprint(), "")
        for text in (COMPOSED, unicodedata.normalize("NFD", COMPOSED), TEXT):
            assert ours.encode(f"{text}{END}x", special=True) == theirs.encode(f"{text}{END}x").ids
            assert [*chain(*ours.encode_stream(text)), *ours.encode_batch([text])[0]] == 2 * ours.encode(text)
    assert "normalizes the prompt to NFC" in read.prompt_changes("e\u0301 é")
    assert not read.prompt_changes("plain")
    assert "normalizes text to NFC" in read.text_changes()


def test_special_tokens_that_take_blanks_are_a_warning() -> None:
    token = RECORD["added_tokens"][0] | {"lstrip": True}
    assert parse_tokenizer_json(RECORD | {"added_tokens": [token]})[1].startswith("<|endoftext|>: the blanks")


def test_the_named_file_is_read_and_not_another_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(ours("sentencepiece-bpe").model_bytes)
    (tmp_path / "tokenizer.json").write_bytes(dump_tokenizer_json(ours("byte")))
    (tmp_path / "vocab.json").write_text(json.dumps(printable_bytes()))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    names = {"": "sentencepiece", "tokenizer.json": "byte", "vocab.json": "gpt2-files", "merges.txt": "gpt2-files"}
    for name, kind in names.items():
        assert find_tokenizer(tmp_path / name)[0].kind == kind
