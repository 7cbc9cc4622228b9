"""Hugging Face's tokenizer.json, written and read without the package `tokenizers`.

Written: byte-level BPE, bytes, characters, and SentencePiece. Read: byte-level BPE with a known split pattern, and what
is written here. Both give the same ids for the same text (tests/interop/test_tokenizer_json.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from llm.errors import UserError
from llm.interop.sentencepiece_model import BPE, BYTE, CONTROL, UNKNOWN, parse_model
from llm.reader import WRONG_SHAPE
from llm.tokenizer import RankTokenizer, Tokenizer
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.gpt2files import printable_bytes
from llm.tokenizer.patterns import GPT2_PATTERN, KNOWN_PATTERNS
from llm.tokenizer.ranks import Normalization
from llm.tokenizer.spm import SPACE, SentencePieceTokenizer

Json = dict[str, Any]

POSSESSIVE_COUNT = re.compile(r"(\{\d+(?:,\d*)?\})\+")
"""The engine of `tokenizers` reads `{n,m}+` as a repetition of a repetition, not as possessive
(findings/tokenizers-possessive-quantifier.sh)."""

GPT2_ORIGINAL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FOREIGN_PATTERNS: Mapping[str, str] = {
    "GPT-2": GPT2_ORIGINAL,
    "GPT-4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "nanochat": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+",
    "Qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Split patterns of tokenizer.json files by others, as they stand there."""


def portable_pattern(pattern: str) -> str:
    """A split pattern of ours as tokenizer.json needs it. None of ours changes by it: nothing follows the count."""
    return POSSESSIVE_COUNT.sub(r"\1", pattern)


READABLE = {portable_pattern(ours): ours for ours in KNOWN_PATTERNS}
READABLE |= {theirs: theirs for theirs in FOREIGN_PATTERNS.values()} | {GPT2_ORIGINAL: GPT2_PATTERN}
"""Split pattern in a file → that of our tokenizer."""


# --- writing


def dump_tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The content of tokenizer.json. UserError for a tokenizer that the format cannot express."""
    if isinstance(tokenizer, RankTokenizer):
        parts = rank_parts(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        ranks = {bytes([value]): value for value in range(256)}
        parts = byte_level_parts(ranks, [], [])
    elif isinstance(tokenizer, CharTokenizer):
        parts = char_parts(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        parts = sentencepiece_parts(tokenizer)
    else:
        raise UserError(f"a tokenizer of kind {tokenizer.kind} cannot be written as tokenizer.json.")
    head: Json = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens(tokenizer)}
    return json.dumps(head | parts, ensure_ascii=False, indent=1).encode()


def added_tokens(tokenizer: Tokenizer) -> list[Json]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    by_id = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    return [{"id": token_id, "content": text} | flags for text, token_id in by_id]


def rank_parts(tokenizer: RankTokenizer) -> Json:
    split = {"type": "Split", "pattern": {"Regex": portable_pattern(tokenizer.pattern)}, "behavior": "Isolated"}
    parts = byte_level_parts(tokenizer.ranks, find_merges(tokenizer.ranks), [split | {"invert": False}])
    return parts | ({"normalizer": {"type": tokenizer.normalization}} if tokenizer.normalization else {})


def byte_level_parts(ranks: Mapping[bytes, int], merges: list[tuple[bytes, bytes]], before: list[Json]) -> Json:
    """Byte-level BPE. `ignore_merges`: a pre-token that is a token is one, as in tiktoken."""
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    names = byte_names()
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, to_bytes]} if before else to_bytes,
        "post_processor": None,
        "decoder": to_bytes,
        "model": bpe_model(
            {printable(token, names): rank for token, rank in ranks.items()},
            [[printable(left, names), printable(right, names)] for left, right in merges],
            ignore_merges=True,
        ),
    }


def bpe_model(vocab: Mapping[str, int], merges: list[list[str]], **more: Any) -> Json:
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE"} | plain | flags | more | {"vocab": dict(vocab), "merges": merges}


def byte_names() -> list[str]:
    """GPT-2's visible character for each byte."""
    names = [""] * 256
    for character, value in printable_bytes().items():
        names[value] = character
    return names


def printable(token: bytes, names: Sequence[str]) -> str:
    return "".join(names[value] for value in token)


def find_merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges that make the tokens of a table of ranks, in order: each token is split as BPE with the lower ranks
    splits it. A token that these leave in more than two parts has no merge."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1 and len(parts := split_below(token, ranks, rank)) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def split_below(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """`token` encoded by the ranks below `limit`."""
    parts = [bytes([value]) for value in token]
    while len(parts) > 1:
        found = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = min(found)
        if best >= limit:
            break
        place = found.index(best)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def char_parts(tokenizer: CharTokenizer) -> Json:
    """A word level of single characters. The unknown token is not U+FFFD where that is a character of the alphabet."""
    unknown = "<unk>" if "\ufffd" in tokenizer.alphabet else "\ufffd"
    vocab = {character: index for index, character in enumerate(tokenizer.alphabet)} | {unknown: tokenizer.unknown_id}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": unknown},
    }


def sentencepiece_parts(tokenizer: SentencePieceTokenizer) -> Json:
    """A SentencePiece model with the normalization "identity", as transformers converts it."""
    model = parse_model(tokenizer.model_bytes)
    texts = [text for text, _, _ in model.pieces]
    unknown = next((index for index, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN), None)
    falls_back = any(kind == BYTE for _, _, kind in model.pieces)
    if model.model_type == BPE:
        vocab = {text: index for index, text in enumerate(texts)}
        merges = sentencepiece_merges([piece for piece in model.pieces if piece[2] not in (CONTROL, UNKNOWN, BYTE)])
        name = texts[unknown] if unknown is not None else None
        core = bpe_model(vocab, merges, unk_token=name, fuse_unk=True, byte_fallback=falls_back)
    else:
        scores = [[text, score] for text, score, _ in model.pieces]
        core = {"type": "Unigram", "unk_id": unknown, "vocab": scores, "byte_fallback": falls_back}
    prefix = [{"type": "Prepend", "prepend": SPACE}] if tokenizer.dummy_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if tokenizer.dummy_prefix else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": core,
    }


def sentencepiece_merges(pieces: Sequence[tuple[str, float, int]]) -> list[list[str]]:
    """Every way to make a piece of two others, those of the piece with the highest score first."""
    places = {text: place for place, (text, _, _) in enumerate(pieces)}
    merges = []
    for text, score, _ in pieces:
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        made = sorted((places[left], places[right]) for left, right in halves if left in places and right in places)
        merges += [(-score, [pieces[left][0], pieces[right][0]]) for left, right in made]
    return [pair for _, pair in sorted(merges, key=lambda item: item[0])]


# --- reading


def parse_tokenizer_json(record: Any, end: str = "") -> tuple[Tokenizer, str]:
    """The tokenizer of a parsed tokenizer.json, and a warning ("" for none) where its special tokens need more.

    `end` is the special token that ends a text; it comes first. UserError names what is not read here.
    """
    try:
        return read_record(record, end)
    except WRONG_SHAPE as error:
        raise UserError(f"tokenizer.json is damaged ({error}); get it again from its source.") from error


def read_record(record: Json, end: str) -> tuple[Tokenizer, str]:
    model, before = record["model"], record.get("pre_tokenizer") or {}
    special = {token["content"]: int(token["id"]) for token in record.get("added_tokens") or []}
    special = {text: special[text] for text in sorted(special, key=lambda text: (text != end, special[text]))}
    if model["type"] == "WordLevel" and before.get("type") == "Split":
        return read_char(model["vocab"], str(model["unk_token"]), special), ""
    kinds = [before, *before.get("pretokenizers", [])]
    if model["type"] != "BPE" or not any(kind.get("type") == "ByteLevel" for kind in kinds):
        name = model["type"] if model["type"] != "BPE" else "BPE over characters"
        raise UserError(f"tokenizer.json holds {name}; only byte-level BPE can be read, and tokenizer.model.")
    ranks = read_ranks(model["vocab"], special)
    is_bytes = len(ranks) == 256 and all(rank == token[0] for token, rank in ranks.items()) and not model["merges"]
    if is_bytes and list(special.values()) == list(range(256, 256 + len(special))) and len(kinds) == 1:
        return ByteTokenizer(list(special)), ""
    check_merges(ranks, model["merges"])
    normalization = read_normalization(record.get("normalizer"))
    tokenizer = RankTokenizer("bpe", ranks, special, split_pattern(kinds), normalization)
    return tokenizer, special_warning(record.get("added_tokens") or [])


def read_char(vocab: Mapping[str, int], unknown: str, special: Mapping[str, int]) -> CharTokenizer:
    "".join(vocab).encode()  # ValueError for lone surrogates, which could not be saved
    tokenizer = CharTokenizer("".join(text for text in vocab if text != unknown), list(special))
    expected = {character: index for index, character in enumerate(tokenizer.alphabet)}
    if vocab != expected | {unknown: tokenizer.unknown_id} or dict(tokenizer.special_tokens) != dict(special):
        raise UserError("tokenizer.json holds words; only byte-level BPE and single characters can be read.")
    return tokenizer


def read_ranks(vocab: Mapping[str, int], special: Mapping[str, int]) -> dict[bytes, int]:
    """The bytes of every token that is not special, and its id."""
    alphabet = printable_bytes()
    return {
        bytes(alphabet[character] for character in text): int(token_id)
        for text, token_id in vocab.items()
        if special.get(text) != token_id
    }


def check_merges(ranks: Mapping[bytes, int], merges: Sequence[Any]) -> None:
    """UserError unless ids rise in the order of the merges, which byte-pair encoding by rank needs."""
    alphabet = printable_bytes()
    last = -1
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        token = bytes(alphabet[character] for character in "".join(pair))
        if token not in ranks:
            raise UserError(f"tokenizer.json is damaged: it merges {''.join(pair)!r}, which is no token.")
        if ranks[token] < last:
            raise UserError(
                f"tokenizer.json numbers {''.join(pair)!r} out of the order of its merges, which is not supported; "
                "use a tokenizer whose ids follow its merges, as those of GPT-2, GPT-4, Llama 3 and Qwen do."
            )
        last = ranks[token]


def split_pattern(kinds: Sequence[Json]) -> str:
    """The split pattern of our tokenizer for a chain of pre-tokenizers; UserError names one that is not supported."""
    steps = [kind for kind in kinds if kind.get("type") not in ("Sequence", None)]
    prefixed = next((kind for kind in steps if kind["type"] == "ByteLevel" and kind.get("add_prefix_space")), None)
    if prefixed is not None:
        raise UserError("tokenizer.json puts a space before every text (add_prefix_space), which is not supported.")
    patterns = [kind["pattern"].get("Regex", "") for kind in steps if kind["type"] == "Split"]
    if any(kind["type"] == "ByteLevel" and kind.get("use_regex", True) for kind in steps):
        patterns.append(GPT2_ORIGINAL)
    others = sorted({kind["type"] for kind in steps} - {"Split", "ByteLevel"})
    if others or len(patterns) != 1 or patterns[0] not in READABLE:
        named = ", ".join([*others, *patterns]) or "none"
        raise UserError(
            f"tokenizer.json splits text by {named:.200}, which is not supported; those of "
            f"{', '.join(FOREIGN_PATTERNS)} and of this program are."
        )
    return READABLE[patterns[0]]


def read_normalization(normalizer: Json | None) -> Normalization:
    """The Unicode form of a normalizer; UserError names one that is not supported."""
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    names = [step["type"] for step in steps]
    if names in ([], ["NFC"]):
        return "NFC" if names else ""
    raise UserError(
        f"tokenizer.json normalizes text by {', '.join(map(str, names)):.200}, which is not supported; NFC is."
    )


def special_warning(added: Sequence[Json]) -> str:
    """A warning for special tokens that match more or less than their text."""
    names = [str(token["content"]) for token in added if any(token.get(flag) for flag in ("lstrip", "rstrip"))]
    return f"{', '.join(names):.200}: the blanks next to it are part of the token elsewhere, not here." if names else ""
