"""`llm-workbench bench data`: BPE training compared with rustbpe, tokenization with tiktoken, and a large file.

The text is Python's standard library, or a given file. Both sides of a comparison run in one process in the order
A B B A. The large file repeats the text; `llm-workbench data` prepares it in another process. Its peak memory includes
its child processes and counts shared pages once.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import rustbpe
import tiktoken

from llm.config.schema import TokenizerConfig
from llm.data.text.corpora import PylibCorpus
from llm.data.text.text_files import read_text
from llm.data.text.validation_split import MAX_BLOCK, Unit, blocks
from llm.data.tokens.encoders import Encoder, ProcessEncoder, SerialEncoder
from llm.data.tokens.tokenize import SplitWriter, tokenize
from llm.errors import UserError
from llm.limits import usable_cores
from llm.tokenizer import build_tokenizer
from llm.tokenizer.bpe import SPLIT_PATTERN, train_bpe
from llm.tokenizer.ranks import RankTokenizer
from workbench.bench.report import Result, Stats, alternate, ratio_text, ratios

VOCABULARY = 32_768
TEXT_BYTES = 8_000_000
COPIES = 8  # of the text, for two processes
POLL_SECONDS = 0.05  # between two measurements of the memory
PARTS = ("bpe", "tokenize", "prepare")

Work = Callable[[], object]


def measure(file: Path | None, parts: Sequence[str], pairs: int, megabytes: int) -> Iterator[tuple[str, Result]]:
    """Yield the name and result of each part. `megabytes`: size of the large file."""
    pieces = text_pieces(file)
    yield "text", {"bytes": sum(len(piece.encode()) for piece in pieces), "from": str(file or "pylib")}
    tokenizer = train_tokenizer(pieces)
    if "bpe" in parts:
        yield "bpe", bench_bpe(pieces, pairs)
    if "tokenize" in parts:
        yield "tokenize", bench_tokenize(pieces, tokenizer, pairs)
    if "prepare" in parts:
        yield "prepare", bench_prepare(pieces, tokenizer, megabytes)


def text_pieces(file: Path | None) -> list[str]:
    """The first `TEXT_BYTES` of a text file, or of Python's library, split into the blocks that are tokenized."""
    if file is None:
        whole: Iterator[str] = (piece for document in PylibCorpus(TEXT_BYTES).documents() for piece in document.pieces)
    else:
        whole = read_text(file)
    pieces, size = [], 0
    for piece in blocks(whole, MAX_BLOCK):
        if size >= TEXT_BYTES:
            break
        pieces.append(piece)
        size += len(piece.encode())
    return pieces


def train_tokenizer(pieces: list[str]) -> RankTokenizer:
    """A BPE tokenizer trained on the text."""
    tokenizer = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=VOCABULARY, special_tokens=()), pieces)
    assert isinstance(tokenizer, RankTokenizer)
    return tokenizer


def bench_bpe(pieces: list[str], pairs: int) -> Result:
    """BPE training: ours, compared with rustbpe called directly."""

    def ours() -> object:
        return train_bpe(pieces, VOCABULARY)

    def alone() -> object:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(pieces), VOCABULARY, pattern=SPLIT_PATTERN)
        return trainer

    size = sum(len(piece.encode()) for piece in pieces)
    return compare("rustbpe alone", ours, alone, pairs, size)


def bench_tokenize(pieces: list[str], tokenizer: RankTokenizer, pairs: int) -> Result:
    """Tokenization: ours from text to token files, compared with tiktoken from text to lists of ids: on one thread, on
    one thread per core, and in two processes that share nothing and have started already, which is what two cores can
    do. A corpus that is large enough for two processes of ours, whose start is included, is the text eight times."""
    size = sum(len(piece.encode()) for piece in pieces)
    ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    encoding = tiktoken.Encoding("alone", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})
    units = [Unit(False, False, False, (piece,)) for piece in pieces]

    def to_files(copies: int, make_encoder: Callable[[Path], Encoder]) -> object:
        with TemporaryDirectory(prefix="llm-workbench-bench-") as name:
            folder = Path(name)
            splits = SplitWriter(folder, "train", tokenizer), SplitWriter(folder, "held-out", tokenizer)
            return list(tokenize(units * copies, tokenizer, make_encoder(folder), "none", *splits, size * copies))

    def ours() -> object:
        return to_files(1, lambda folder: SerialEncoder(tokenizer))

    def two_processes() -> object:
        return to_files(COPIES, lambda folder: ProcessEncoder(save_tokenizer(folder), 2))

    def save_tokenizer(folder: Path) -> Path:
        tokenizer.save(folder / "tokenizer")
        return folder / "tokenizer"

    def one_thread(copies: int = 1) -> object:
        return sum(len(encoding.encode_ordinary(piece)) for _ in range(copies) for piece in pieces)

    def all_threads() -> object:
        return encoding.encode_ordinary_batch(pieces, num_threads=usable_cores())

    with two_alone(pieces * (COPIES // 2), tokenizer) as alone:
        limit = compare("tiktoken alone in two processes", two_processes, alone, pairs, size * COPIES)
    return {
        "two_processes": compare(
            "tiktoken alone on one thread", two_processes, lambda: one_thread(COPIES), pairs, size * COPIES
        ),
        "two_processes_at_best": limit,
        "one_thread": compare("tiktoken alone on one thread", ours, one_thread, pairs, size),
        "all_threads": compare("tiktoken alone on all cores", ours, all_threads, pairs, size),
    }


@contextmanager
def two_alone(pieces: list[str], tokenizer: RankTokenizer) -> Iterator[Work]:
    """Two processes of tiktoken, each with the text `pieces`; the work is that both encode it."""
    context = multiprocessing.get_context("spawn")
    ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    pipes = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=encode_alone, args=(theirs,), daemon=True).start()
        theirs.close()
        ours.send((tokenizer.pattern, ranks, pieces))
        pipes.append(ours)

    def work() -> None:
        for pipe in pipes:
            pipe.send(None)
        for pipe in pipes:
            pipe.recv()

    yield work
    for pipe in pipes:
        pipe.close()


def encode_alone(pipe: Connection) -> None:
    """The loop of such a process: encodes the text whenever it is asked to, until the pipe closes."""
    pattern, ranks, pieces = pipe.recv()
    encoding = tiktoken.Encoding("alone", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    with suppress(EOFError):
        while True:
            pipe.recv()
            pipe.send(sum(len(encoding.encode_ordinary(piece)) for piece in pieces))


def compare(rival: str, ours: Work, theirs: Work, pairs: int, size: int) -> Result:
    """Megabytes per second of both on a text of `size` bytes, and the ratio of our speed to theirs, after one warm-up
    of each."""
    speeds: dict[Work, list[float]] = {ours: [], theirs: []}
    for work in speeds:
        work()
    for work in alternate((ours, theirs), pairs):
        began = time.perf_counter()
        work()
        speeds[work].append(size / 1e6 / (time.perf_counter() - began))
    return {
        "rival": rival,
        "our_megabytes_per_second": asdict(Stats.of(speeds[ours])),
        "their_megabytes_per_second": asdict(Stats.of(speeds[theirs])),
        "ratio": asdict(Stats.of(ratios(speeds[ours], speeds[theirs]))),
    }


def bench_prepare(pieces: list[str], tokenizer: RankTokenizer, megabytes: int) -> Result:
    """Seconds and peak memory of the command that prepares a file of that many megabytes."""
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
        peak = peak_memory(process)
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
    """Write the pieces repeatedly until there are at least `size` bytes. Returns the number of bytes."""
    endless = itertools.cycle(pieces)
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(next(endless).encode())
        return file.tell()


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    """Peak memory in bytes of a process and its children, until it ends."""
    peak, first = 0, psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, sum(memory_of(each) for each in with_children(first)))
        time.sleep(POLL_SECONDS)
    return peak


def with_children(first: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [first, *first.children(recursive=True)]
    return []


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process: PSS, which divides shared pages among the processes, or USS where the system has no PSS; 0
    after the process has ended."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.uss))
    return 0


def lines_of(part: str, result: Result) -> list[str]:
    """The printed result of one part."""
    if part == "text":
        return [f"{result['bytes']:,} bytes of text from {result['from']}, {VOCABULARY:,} tokens"]
    if part == "prepare":
        return [
            f"preparing {result['bytes'] / 1e6:.0f} MB: {result['seconds']:.1f} s, "
            f"{result['megabytes_per_second']:.1f} MB/s, at most {result['peak_bytes'] / 1e6:.0f} MB of memory"
        ]
    matches = {part: result} if "ratio" in result else {f"{part}, {name}": one for name, one in result.items()}
    return [f"{name.replace('_', ' ')}: {comparison_line(match)}" for name, match in matches.items()]


def comparison_line(match: Result) -> str:
    """A comparison as one line."""
    ratio = match["ratio"]
    ours, theirs = (match[f"{side}_megabytes_per_second"]["median"] for side in ("our", "their"))
    return f"ours {ours:.1f} MB/s, {match['rival']} {theirs:.1f} MB/s; ratio {ratio_text(ratio)}"
