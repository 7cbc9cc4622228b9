"""Which token files a path means: what is meant by a folder that holds other files too, and which files are held out.

They are known by their names: `*.npy`, `*.bin`, and `encoded_tokens_chunk_K.dat`, K counting from 0.
"""

from __future__ import annotations

import re
from pathlib import Path

from llm.config.schema import DataConfig
from llm.data.text.compressed import MAGIC_BYTES, compression_of
from llm.data.text.find_files import find_files
from llm.data.text.text_files import NOT_TEXT, opened
from llm.errors import UserError

CHUNK = re.compile(r"encoded_tokens_chunk_(\d+)\.dat")
SUFFIXES = (".npy", ".bin")
KINDS = ".npy, .bin, encoded_tokens_chunk_K.dat"
HEADER_MAGIC = 20240520
NUMPY_MAGIC = b"\x93NUMPY"
ABOUT = re.compile(r"(readme|licen[cs]e|notice|copying|changelog|contributing|authors|requirements)", re.IGNORECASE)
TEXTS = (".txt", ".py", ".md")
BESIDE = (*TEXTS, "", ".json", ".pkl", ".model", ".vocab")  # nanoGPT and llama2.c keep such files with their tokens
SIDES = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)


def is_token_name(name: str) -> bool:
    return name.endswith(SUFFIXES) or CHUNK.fullmatch(name) is not None


def is_token_corpus(data: DataConfig, *, trains_tokenizer: bool = False) -> bool:
    """Whether `data.corpus` names token files: because `data.format` says so, or by their names.

    `trains_tokenizer`: the tokenizer is to be learnt from the corpus, which needs text; where text lies beside a file
    that has only the suffix of tokens, the text is meant. UserError where other files lie beside token files that may
    be what is meant.
    """
    if data.format != "auto" or data.corpus in ("stories", "pylib"):
        return data.format == "tokens"
    found = candidates(data.corpus)
    tokens = [file for file in found if is_token_name(file.name)]
    others = [file for file in found if not is_token_name(file.name)]
    if others:
        tokens = [file for file in tokens if not is_foreign(file)]
    if not tokens:
        return False
    strange = [file for file in others if file.suffix not in BESIDE]
    texts = [file for file in others if file.suffix in TEXTS]
    certain = any(CHUNK.match(file.name) or side_of(file) or file.suffix == ".npy" for file in tokens)
    if not certain and trains_tokenizer and any(file.suffix != ".py" and not ABOUT.match(file.stem) for file in texts):
        return False
    if not strange and len(texts) > len(tokens) and not certain:
        strange = texts
    if strange:
        raise UserError(
            f"{data.corpus} holds token files ({tokens[0].name}) and other files ({strange[0].name}), and which are "
            "meant cannot be told; name the files themselves in data.corpus, or set data.format to what they are."
        )
    return True


def is_foreign(path: Path) -> bool:
    """Whether a file named like token files begins like one of another kind, or is no whole number of 16-bit ids."""
    with opened(path) as file:
        beginning = file.read(MAGIC_BYTES)
    if path.suffix == ".npy":
        return not beginning.startswith(NUMPY_MAGIC)
    return path.stat().st_size % 2 == 1 or beginning.startswith(NOT_TEXT) or bool(compression_of(beginning))


def candidates(pattern: str) -> list[Path]:
    """The files right inside a folder, or those that a path or glob means; hidden ones are left out."""
    path = Path(pattern).expanduser()
    if not path.is_dir():
        return find_files(pattern)
    return sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))


def token_sides(data: DataConfig) -> tuple[list[Path], list[Path]]:
    """The files to train on, and those held out (none: a share of the others is).

    Held out are those of `data.validation`, or where that is empty those of the corpus whose names say validation
    where others say train. No file is on both sides, except one that is named for both.
    """
    train, held_out = parted(data.corpus, "data.corpus")
    if data.validation:
        first, second = parted(data.validation, "data.validation")
        held_out = second or first
        if data.format == "auto":
            check_marked(held_out, data)
    both = {path.resolve() for path in held_out}
    return [path for path in train if path.resolve() not in both] or train, held_out


def parted(pattern: str, field: str) -> tuple[list[Path], list[Path]]:
    """The token files a pattern means, and apart from them those for validation where there are both."""
    found = token_paths(pattern, field)
    sides = [side_of(path) for path in found]
    named = set(sides)
    if named == {"train", "validation"}:
        of = {side: [path for path, its in zip(found, sides, strict=True) if its == side] for side in named}
        return of["train"], of["validation"]
    if len(named) > 1 and named & {"validation", "test"}:
        one, other = next((found[0], path) for path, its in zip(found, sides, strict=True) if its != sides[0])
        raise UserError(
            f"{pattern} holds {one.name} and {other.name}, and which are to be trained on cannot be told; name those "
            "in data.corpus and those to be held out in data.validation."
        )
    return found, []


def side_of(path: Path) -> str:
    """train, validation or test, as one of the words in a file's name says; "" where none does, or two disagree."""
    said = {SIDES[word] for word in re.findall("[a-z]+", path.stem.lower()) if word in SIDES}
    return said.pop() if len(said) == 1 else ""


def check_marked(paths: list[Path], data: DataConfig) -> None:
    """UserError where one of the files for validation has neither the name nor the beginning of a token file."""
    for path in paths:
        with opened(path) as file:
            marked = file.read(4) == HEADER_MAGIC.to_bytes(4, "little")
        if not marked and not is_token_name(path.name):
            raise UserError(
                f"{path} has not the name of a token file ({KINDS}), and the corpus {data.corpus} is token files; name "
                "one in data.validation, or set data.format to tokens if it is one."
            )


def token_paths(pattern: str, field: str) -> list[Path]:
    """The token files that a path, folder or glob means: chunks in the order of their numbers, others of their names.

    Raises UserError where there are none, a chunk is missing, or a chunk that is not the last differs in length.
    """
    folder = Path(pattern).expanduser().is_dir()
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
        raise UserError(missing_chunk(pattern, field, found[0].with_name(f"encoded_tokens_chunk_{missing}.dat")))
    chunks = [numbered[number] for number in sorted(numbered)]
    sizes = [chunk.stat().st_size for chunk in chunks]
    for chunk, size in zip(chunks[:-1], sizes[:-1], strict=True):
        if size != sizes[0]:
            raise UserError(
                f"The token file {chunk} has {size:,} bytes where chunk 0 has {sizes[0]:,}: only the last chunk may "
                "differ; bring back the whole file."
            )
    return chunks


def missing_chunk(pattern: str, field: str, missing: Path) -> str:
    """What to say of a chunk that is not there, or that a glob leaves out."""
    if missing.is_file():
        return (
            f"{pattern} leaves out {missing.name}, which is there: chunks are read from 0 on without a gap; name the "
            f"folder {missing.parent} in {field}."
        )
    return f"{pattern} lacks {missing.name}; bring it back, or chunk the corpus again."
