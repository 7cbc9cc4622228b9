"""The token files of a path, also among other files in a folder, and their split into training and validation.

Token files are recognized by name: `*.npy`, `*.bin`, and `encoded_tokens_chunk_K.dat`, K counting from 0.
"""

from __future__ import annotations

import re
from pathlib import Path

from llm.config.schema import DataConfig
from llm.data.text.compressed import MAGIC_BYTES, compression_of
from llm.data.text.corpora import BUILT_IN
from llm.data.text.find_files import find_files
from llm.data.text.text_files import NOT_TEXT, open_binary
from llm.errors import UserError
from llm.files import expand_user

CHUNK = re.compile(r"encoded_tokens_chunk_(\d+)\.dat")
SUFFIXES = (".npy", ".bin")
KINDS = ".npy, .bin, encoded_tokens_chunk_K.dat"
HEADER_MAGIC = 20240520
NUMPY_MAGIC = b"\x93NUMPY"
DOCUMENTATION = re.compile(
    r"(readme|licen[cs]e|notice|copying|changelog|contributing|authors|requirements)", re.IGNORECASE
)
TEXTS = (".txt", ".py", ".md")
COMPANIONS = (*TEXTS, "", ".json", ".pkl", ".model", ".vocab")  # files of nanoGPT and llama2.c next to their tokens
SIDES = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)


def is_token_name(name: str) -> bool:
    return name.endswith(SUFFIXES) or CHUNK.fullmatch(name) is not None


def is_token_corpus(data: DataConfig, *, trains_tokenizer: bool = False) -> bool:
    """Whether `data.corpus` names token files, by `data.format` or by file names.

    With `trains_tokenizer`, text next to a file that only has the suffix of a token file means the text. UserError if
    token files and other files are mixed and either may be meant.
    """
    if data.format != "auto" or data.corpus in BUILT_IN:
        return data.format == "tokens"
    found = candidates(data.corpus)
    tokens = [file for file in found if is_token_name(file.name)]
    others = [file for file in found if not is_token_name(file.name)]
    if others:
        tokens = [file for file in tokens if not is_foreign(file)]
    if not tokens:
        return False
    strange = [file for file in others if file.suffix not in COMPANIONS]
    texts = [file for file in others if file.suffix in TEXTS]
    certain = any(CHUNK.match(file.name) or split_in_name(file) or file.suffix == ".npy" for file in tokens)
    if (
        not certain
        and trains_tokenizer
        and any(file.suffix != ".py" and not DOCUMENTATION.match(file.stem) for file in texts)
    ):
        return False
    if not strange and len(texts) > len(tokens) and not certain:
        strange = texts
    if strange:
        raise UserError(
            f"{data.corpus} holds token files ({tokens[0].name}) and other files ({strange[0].name}), which is "
            "ambiguous; name the files themselves in data.corpus, or set data.format to their format."
        )
    return True


def is_foreign(path: Path) -> bool:
    """Whether a file with the name of a token file begins like another format, or is not made of 16-bit ids."""
    with open_binary(path) as file:
        beginning = file.read(MAGIC_BYTES)
    if path.suffix == ".npy":
        return not beginning.startswith(NUMPY_MAGIC)
    return path.stat().st_size % 2 == 1 or beginning.startswith(NOT_TEXT) or bool(compression_of(beginning))


def candidates(pattern: str) -> list[Path]:
    """The files directly in a folder, without hidden ones, or those of a path or glob."""
    path = expand_user(pattern)
    if not path.is_dir():
        return find_files(pattern)
    return sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))


def token_file_splits(data: DataConfig) -> tuple[list[Path], list[Path]]:
    """The files for training, and those for validation (none: a share of the training tokens).

    Validation files are those of `data.validation`; if that is empty, those of the corpus named validation where the
    others are named train. No file is in both splits, unless it is the only one.
    """
    train, validation = split_by_name(data.corpus, "data.corpus")
    if data.validation:
        first, second = split_by_name(data.validation, "data.validation")
        validation = second or first
        if data.format == "auto":
            check_token_files(validation, data)
    both = {path.resolve() for path in validation}
    return [path for path in train if path.resolve() not in both] or train, validation


def split_by_name(pattern: str, field: str) -> tuple[list[Path], list[Path]]:
    """The token files of a pattern, and separately those for validation if the names distinguish them."""
    found = token_paths(pattern, field)
    sides = [split_in_name(path) for path in found]
    named = set(sides)
    if named == {"train", "validation"}:
        of = {side: [path for path, its in zip(found, sides, strict=True) if its == side] for side in named}
        return of["train"], of["validation"]
    if len(named) > 1 and named & {"validation", "test"}:
        one, other = next((found[0], path) for path, its in zip(found, sides, strict=True) if its != sides[0])
        raise UserError(
            f"{pattern} holds {one.name} and {other.name}, and the split is ambiguous; name those for training in "
            "data.corpus and those for validation in data.validation."
        )
    return found, []


def split_in_name(path: Path) -> str:
    """train, validation or test, from the words in a file name; "" if there is none or they disagree."""
    found_sides = {SIDES[word] for word in re.findall("[a-z]+", path.stem.lower()) if word in SIDES}
    return found_sides.pop() if len(found_sides) == 1 else ""


def check_token_files(paths: list[Path], data: DataConfig) -> None:
    """UserError if a validation file has neither the name nor the header of a token file."""
    for path in paths:
        with open_binary(path) as file:
            marked = file.read(4) == HEADER_MAGIC.to_bytes(4, "little")
        if not marked and not is_token_name(path.name):
            raise UserError(
                f"{path} does not have the name of a token file ({KINDS}), but the corpus {data.corpus} is token "
                "files; name one in data.validation, or set data.format to tokens if it is one."
            )


def token_paths(pattern: str, field: str) -> list[Path]:
    """The token files of a path, folder or glob: chunks ordered by number, others by name.

    Raises UserError if there are none, a chunk is missing, or a chunk other than the last differs in length.
    """
    folder = expand_user(pattern).is_dir()
    every = candidates(pattern)
    named = [file for file in every if is_token_name(file.name)]
    found = named or ([] if folder else every)
    if not found:
        raise UserError(f"{pattern} holds no token files ({KINDS}); check {field}, or set data.format if it is text.")
    numbered = {int(match[1]): file for file in found if (match := CHUNK.fullmatch(file.name))}
    if not numbered or (len(found) == 1 and not folder):
        return found
    if len(numbered) < len(found):
        raise UserError(f"{pattern} mixes chunk files with other token files; name one kind in {field}.")
    missing = next((number for number in range(max(numbered)) if number not in numbered), None)
    if missing is not None:
        raise UserError(
            missing_chunk_message(pattern, field, found[0].with_name(f"encoded_tokens_chunk_{missing}.dat"))
        )
    chunks = [numbered[number] for number in sorted(numbered)]
    sizes = [chunk.stat().st_size for chunk in chunks]
    for chunk, size in zip(chunks[:-1], sizes[:-1], strict=True):
        if size != sizes[0]:
            raise UserError(
                f"The token file {chunk} has {size:,} bytes where chunk 0 has {sizes[0]:,}: only the last chunk may "
                "differ; restore the whole file."
            )
    return chunks


def missing_chunk_message(pattern: str, field: str, missing: Path) -> str:
    """The message about a chunk that is missing, or that a glob does not match."""
    if missing.is_file():
        return (
            f"{pattern} does not match {missing.name}, which exists: chunks are read from 0 without a gap; name the "
            f"folder {missing.parent} in {field}."
        )
    return f"{pattern} lacks {missing.name}; restore it, or chunk the corpus again."
