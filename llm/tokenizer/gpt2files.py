"""GPT-2's tokenizer files: vocab.json (token -> id) and merges.txt, in which bytes are printable characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm.errors import UserError
from llm.reader import parse_json, read_bytes
from llm.tokenizer.patterns import GPT2_PATTERN
from llm.tokenizer.ranks import RankTokenizer, check_merges
from llm.tokenizer.special_tokens import with_special_tokens

FILE_NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""The names of the two files: Hugging Face's, and OpenAI's."""

MAX_VOCABULARY_BYTES = 64 << 20


def printable_bytes() -> dict[str, int]:
    """GPT-2's alphabet: printable character -> byte (`bytes_to_unicode` in transformers, inverted).

    Printable Latin-1 characters stand for themselves. The other bytes have the characters from U+0100 on: a space is Ġ
    and a line break is Ċ.
    """
    visible = [value for value in range(256) if chr(value).isprintable() and chr(value) != " "]
    hidden = [value for value in range(256) if value not in visible]
    return {chr(value): value for value in visible} | {chr(256 + index): value for index, value in enumerate(hidden)}


def load_gpt2_files(path: Path, special_tokens: Sequence[str] = ()) -> RankTokenizer:
    """The tokenizer in a folder with vocab.json and merges.txt; `path` is the folder or one of the files."""
    folder = path if path.is_dir() else path.parent
    for vocab_name, merges_name in FILE_NAMES:
        vocab, merges = folder / vocab_name, folder / merges_name
        if vocab.is_file() and merges.is_file():
            break
    else:
        raise UserError(f"{folder} does not hold vocab.json and merges.txt; name the folder with both.")
    try:
        ranks, defined = parse_gpt2_files(*(read_bytes(file, MAX_VOCABULARY_BYTES) for file in (vocab, merges)))
        next_id = max([*ranks.values(), *defined.values()]) + 1
        specials = with_special_tokens(defined, special_tokens, next_id)
        return RankTokenizer("gpt2-files", ranks, specials, GPT2_PATTERN)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{vocab} and {merges.name} cannot be used ({error}); download both from the same source."
        ) from error


def parse_gpt2_files(vocab: bytes, merges: bytes) -> tuple[dict[bytes, int], dict[str, int]]:
    """(token bytes -> id, special token -> id) from the contents of the two files.

    Entries of vocab.json that are neither a byte nor the result of a merge are special tokens. ValueError if a file is
    damaged, or as in `check_merges`.
    """
    ids = parse_json(vocab, MAX_VOCABULARY_BYTES)
    if not isinstance(ids, dict) or not all(type(value) is int for value in ids.values()):
        raise ValueError("the vocabulary is not a table of ids")
    alphabet = printable_bytes()
    merged = list(dict.fromkeys(_merged_names(merges.decode())))
    check_merges({name: ids[name] for name in ids if alphabet.keys() >= set(name)}, alphabet, merged)
    ranks = {bytes(alphabet[character] for character in name): ids[name] for name in [*alphabet, *merged]}
    known = set(ranks.values())
    return ranks, {name: token_id for name, token_id in ids.items() if token_id not in known}


def _merged_names(merges: str) -> list[str]:
    """The results of the merges, in order. The first line may be a comment."""
    lines = merges.splitlines()
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    return ["".join(line.split(" ")) for line in lines if line]
