"""Batches of texts to token ids, in this process or in several, with the same ids in the same order."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from typing import Protocol, TypeAlias

import numpy as np

from llm.errors import UserError
from llm.limits import usable_cores
from llm.tokenizer import Tokenizer, load_tokenizer
from llm.tokenizer.base import Ids

PendingIds: TypeAlias = "Callable[[], list[Ids]]"
LARGE_CORPUS_BYTES = 64 << 20  # a smaller one is tokenized faster without starting processes
MAX_PROCESSES = 32


class Encoder(Protocol):
    """Encodes batches of texts, possibly several at a time."""

    @property
    def depth(self) -> int:
        """How many batches may be pending at once."""

    def submit(self, texts: Sequence[str]) -> PendingIds:
        """A function that waits for the ids of each text. Call these functions in the order of submission."""

    def close(self) -> None:
        """Free the resources; pending batches are dropped."""


def make_encoder(tokenizer: Tokenizer, saved: Path, size_bytes: int, processes: int) -> Encoder:
    """An encoder for a corpus of about `size_bytes`. `saved` is the directory of the saved tokenizer.

    `processes` 0 means one per core for a large corpus; 1 means this process.
    """
    count = processes or (usable_cores() if size_bytes >= LARGE_CORPUS_BYTES else 1)
    return ProcessEncoder(saved, min(count, MAX_PROCESSES)) if count > 1 else SerialEncoder(tokenizer)


class SerialEncoder:
    """Encodes in this process, on as many threads as the tokenizer uses."""

    depth = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def submit(self, texts: Sequence[str]) -> PendingIds:
        return lambda: self._tokenizer.encode_batch(texts)

    def close(self) -> None:
        """Nothing to free."""


class ProcessEncoder:
    """Encodes in `count` processes that load the tokenizer from `saved`; batch k goes to process k mod count.

    A process has two batches at most, so that memory is bounded: it receives the second while it encodes the first, and
    need not wait for the parent, which takes the results in order. The processes exit when this process dies, because
    their pipes close. They are spawned, not forked, because this process has threads. A program that replaces the
    standard streams must call `multiprocessing.resource_tracker.ensure_running` first.
    """

    def __init__(self, saved: Path, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.depth = 2 * count - 1
        self._pipes: list[Connection] = []
        self._processes = []
        self._next_process = 0
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=run_encoder_process, args=(theirs, saved), daemon=True, name="tokenize")
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def submit(self, texts: Sequence[str]) -> PendingIds:
        pipe = self._pipes[self._next_process]
        self._next_process = (self._next_process + 1) % len(self._pipes)
        try:
            pipe.send(list(texts))
        except OSError as error:
            raise lost_process_error() from error
        return lambda: receive(pipe)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()
            process.close()


def receive(pipe: Connection) -> list[Ids]:
    """The ids of the oldest pending batch of a process."""
    try:
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        raise lost_process_error() from error
    if isinstance(answer, Exception):
        raise answer
    ids, lengths = answer
    return np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []


def lost_process_error() -> UserError:
    return UserError(
        "A process that tokenizes the corpus exited early (out of memory?); try again with data.processes set to 1."
    )


def run_encoder_process(pipe: Connection, saved: Path) -> None:
    """The loop of a process: receives texts, sends (ids, lengths) or an exception, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent handles it
    batches: Queue[list[str] | None] = Queue(1)
    threading.Thread(target=receive_batches, args=(pipe, batches), daemon=True).start()
    tokenizer = load_tokenizer(saved)
    while (texts := batches.get()) is not None:
        try:
            encoded = tokenizer.encode_batch(texts, threads=1)
            answer: object = (np.concatenate(encoded), [len(ids) for ids in encoded]) if encoded else ([], [])
        except Exception as error:  # noqa: BLE001  raised in the parent
            answer = error
        try:
            pipe.send(answer)
        except OSError:
            return  # the parent closed the pipe


def receive_batches(pipe: Connection, batches: Queue[list[str] | None]) -> None:
    """Receive the next batch while one is encoded; None once the parent has closed the pipe."""
    try:
        while True:
            batches.put(pipe.recv())
    except (EOFError, OSError):
        batches.put(None)
