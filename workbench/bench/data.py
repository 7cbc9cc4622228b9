"""`llm-workbench bench data`: learning a vocabulary beside rustbpe, tokenising beside tiktoken, preparing a large file.

The text is Python's own library, or a file given. Both sides of a comparison take turns, A B B A, in one process. The
large file, that text over and over, is prepared by `llm-workbench data` in a process of its own, which is watched: its
memory is that of all its processes together, pages that they share counted once.
"""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import rustbpe
import tiktoken

from llm.config.schema import TokenizerConfig
from llm.data.text.corpora import PylibCorpus
from llm.data.text.text_files import read_text
from llm.data.text.validation_split import LARGEST_BLOCK, Unit, blocks
from llm.data.tokens.encoders import SerialEncoder
from llm.data.tokens.tokenize import SplitWriter, tokenize
from llm.errors import UserError
from llm.limits import usable_cores
from llm.tokenizer import build_tokenizer
from llm.tokenizer.bpe import SPLIT_PATTERN, train_bpe
from llm.tokenizer.ranks import RankTokenizer
from workbench.bench.decode import Speed

VOCABULARY = 32_768
TEXT_BYTES = 8_000_000
LOOK_SECONDS = 0.05  # between two looks at the memory

Result = dict[str, Any]
Work = Callable[[], object]


def measure(file: Path | None, parts: Sequence[str], pairs: int, megabytes: int) -> Iterator[tuple[str, Result]]:
    """Each part's name and result, as it is done. `megabytes`: of the large file."""
    pieces = text_pieces(file)
    yield "text", {"bytes": sum(len(piece.encode()) for piece in pieces), "from": str(file or "pylib")}
    tokenizer = learnt(pieces)
    if "bpe" in parts:
        yield "bpe", bpe(pieces, pairs)
    if "tokenise" in parts:
        yield "tokenise", tokenising(pieces, tokenizer, pairs)
    if "prepare" in parts:
        yield "prepare", preparing(pieces, tokenizer, megabytes)


def text_pieces(file: Path | None) -> list[str]:
    """The first `TEXT_BYTES` of a text file, or of Python's library, in blocks as they are tokenised."""
    if file is None:
        whole: Iterator[str] = (piece for document in PylibCorpus(TEXT_BYTES).documents() for piece in document.pieces)
    else:
        whole = read_text(file, lambda path, count: None)
    pieces, size = [], 0
    for piece in blocks(whole, LARGEST_BLOCK):
        if size >= TEXT_BYTES:
            break
        pieces.append(piece)
        size += len(piece.encode())
    return pieces


def learnt(pieces: list[str]) -> RankTokenizer:
    """A vocabulary learnt from the text."""
    tokenizer = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=VOCABULARY, special_tokens=()), pieces)
    assert isinstance(tokenizer, RankTokenizer)
    return tokenizer


def bpe(pieces: list[str], pairs: int) -> Result:
    """Learning the vocabulary: ours, and rustbpe called as its readers would."""

    def ours() -> object:
        return train_bpe(pieces, VOCABULARY)

    def alone() -> object:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(pieces), VOCABULARY, pattern=SPLIT_PATTERN)
        return trainer

    size = sum(len(piece.encode()) for piece in pieces)
    return compared("rustbpe alone", *turns(ours, alone, pairs), size=size)


def tokenising(pieces: list[str], tokenizer: RankTokenizer, pairs: int) -> Result:
    """From text to finished token files without processes of their own, beside tiktoken from text to lists of ids: on
    one thread, and on as many as there are cores."""
    size = sum(len(piece.encode()) for piece in pieces)
    ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    encoding = tiktoken.Encoding("alone", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})
    units = [Unit(False, False, False, (piece,)) for piece in pieces]

    def ours() -> object:
        with TemporaryDirectory(prefix="llm-workbench-bench-") as name:
            folder = Path(name)
            sides = SplitWriter(folder, "train", tokenizer), SplitWriter(folder, "held-out", tokenizer)
            return list(tokenize(units, tokenizer, SerialEncoder(tokenizer), "none", *sides, size))

    def one_thread() -> object:
        return [encoding.encode_ordinary(piece) for piece in pieces]

    def all_threads() -> object:
        return encoding.encode_ordinary_batch(pieces, num_threads=usable_cores())

    return {
        "one_thread": compared("tiktoken alone on one thread", *turns(ours, one_thread, pairs), size=size),
        "all_threads": compared("tiktoken alone on all cores", *turns(ours, all_threads, pairs), size=size),
    }


def turns(first: Work, second: Work, pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of both, `pairs` times each in the order A B, B A, after one warm-up of each."""
    works, seconds = (first, second), ([], [])  # type: tuple[Work, Work], tuple[list[float], list[float]]
    for work in works:
        work()
    for pair in range(pairs):
        for index in (0, 1) if pair % 2 == 0 else (1, 0):
            began = time.perf_counter()
            works[index]()
            seconds[index].append(time.perf_counter() - began)
    return seconds


def compared(rival: str, ours: list[float], theirs: list[float], *, size: int) -> Result:
    """Megabytes of text per second of both, and how many times as fast as the rival ours is, pair by pair."""
    return {
        "rival": rival,
        "our_megabytes_per_second": asdict(Speed.of([size / 1e6 / seconds for seconds in ours])),
        "their_megabytes_per_second": asdict(Speed.of([size / 1e6 / seconds for seconds in theirs])),
        "ratio": asdict(Speed.of([b / a for a, b in zip(ours, theirs, strict=True)])),
    }


def preparing(pieces: list[str], tokenizer: RankTokenizer, megabytes: int) -> Result:
    """Prepare a file of that many megabytes as a person would: seconds in all, and the most memory held."""
    with TemporaryDirectory(prefix="llm-workbench-bench-") as name:
        folder = Path(name)
        tokenizer.save(folder / "tokenizer")
        size = write_large(folder / "large.txt", pieces, megabytes * 1_000_000)
        arguments = ["data", "quickstart", "--json", "--home", str(folder / "home"), "--data.corpus",
                     str(folder / "large.txt"), "--tokenizer.path", str(folder / "tokenizer")]  # fmt: skip
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        peak = watched(process)
        seconds = time.perf_counter() - began
        assert process.stdout is not None
        if process.returncode:
            raise UserError(f"llm-workbench {' '.join(arguments)} failed; run it to see why.")
        return {
            "bytes": size,
            "seconds": seconds,
            "megabytes_per_second": size / 1e6 / seconds,
            "peak_bytes": peak,
            "made": json.loads(process.stdout.read()),
        }


def write_large(path: Path, pieces: list[str], size: int) -> int:
    """The pieces over and over until there are `size` bytes; returns how many there are."""
    with path.open("wb") as file:
        for piece in itertools.cycle(pieces):
            if file.write(piece.encode()) and file.tell() >= size:
                return file.tell()
    raise AssertionError("a cycle ended")


def watched(process: subprocess.Popen[bytes]) -> int:
    """The most memory that a process and its children held together until it ended."""
    peak, first = 0, psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, sum(held(each) for each in family(first)))
        time.sleep(LOOK_SECONDS)
    return peak


def family(first: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [first, *first.children(recursive=True)]
    return []


def held(process: psutil.Process) -> int:
    """Bytes of a process, a page that several share counted in parts where the system tells them; 0 once it is gone."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.uss))
    return 0


def machine() -> Result:
    """What the numbers were measured with."""
    return {
        "cores": usable_cores(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("tiktoken", "rustbpe", "numpy")},
    }


PARTS = ("bpe", "tokenise", "prepare")


def lines_of(part: str, result: Result) -> list[str]:
    """What a person reads of one part."""
    if part == "text":
        return [f"{result['bytes']:,} bytes of text from {result['from']}, {VOCABULARY:,} tokens"]
    if part == "prepare":
        return [
            f"preparing {result['bytes'] / 1e6:.0f} MB: {result['seconds']:.1f} s, "
            f"{result['megabytes_per_second']:.1f} MB/s, at most {result['peak_bytes'] / 1e6:.0f} MB of memory"
        ]
    matches = [result] if "ratio" in result else list(result.values())
    return [f"{part}: {words(match)}" for match in matches]


def words(match: Result) -> str:
    """One comparison in a line."""
    ratio = match["ratio"]
    ours, theirs = (match[f"{side}_megabytes_per_second"]["median"] for side in ("our", "their"))
    return (
        f"{ours:.1f} MB/s, {match['rival']} {theirs:.1f} MB/s; "
        f"{ratio['median']:.2f} times as fast ({ratio['low']:.2f}–{ratio['high']:.2f})"
    )
