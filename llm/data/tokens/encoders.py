"""Batches of texts to token ids: here, or in processes of their own, with the same ids in the same order."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llm.errors import UserError
from llm.limits import usable_cores
from llm.tokenizer import Tokenizer, load_tokenizer

Ids = NDArray[np.uint32]
Promise: TypeAlias = "Callable[[], list[Ids]]"
LARGE_CORPUS_BYTES = 64 << 20  # below this, starting processes costs more than they save
MOST_PROCESSES = 32


class Encoder(Protocol):
    """Encodes batches of ordinary texts, several at a time where it can."""

    @property
    def depth(self) -> int:
        """How many batches may wait for their results at once."""

    def submit(self, texts: Sequence[str]) -> Promise:
        """A function that returns the ids of each text. Promises must be kept in the order they were made."""

    def close(self) -> None:
        """Free what it holds; batches still waiting are dropped."""


def make_encoder(tokenizer: Tokenizer, saved: Path, size_bytes: int, processes: int) -> Encoder:
    """An encoder for a corpus of about `size_bytes`. `saved`: the directory the tokenizer was saved in.

    `processes` 0 means one per core where the corpus is large; 1 means none.
    """
    count = processes or (usable_cores() if size_bytes >= LARGE_CORPUS_BYTES else 1)
    return ProcessEncoder(saved, min(count, MOST_PROCESSES)) if count > 1 else SerialEncoder(tokenizer)


class SerialEncoder:
    """Encodes in this process, on as many threads as the tokenizer likes."""

    depth = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def submit(self, texts: Sequence[str]) -> Promise:
        return lambda: [np.array(ids, dtype=np.uint32) for ids in self._tokenizer.encode_batch(texts)]

    def close(self) -> None:
        """Nothing to free."""


class ProcessEncoder:
    """Encodes in `count` processes that have loaded the tokenizer from `saved`; batch k goes to process k mod count.

    A process holds one batch at a time, so that memory stays bounded. When this process dies, so do they: their pipes
    close. They are spawned, not forked, as this process has threads; whoever has replaced the standard streams must
    have called `multiprocessing.resource_tracker.ensure_running` before.
    """

    def __init__(self, saved: Path, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.depth = count - 1
        self._pipes: list[Connection] = []
        self._processes = []
        self._turn = 0
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=encode_on_request, args=(theirs, saved), daemon=True, name="tokenize")
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def submit(self, texts: Sequence[str]) -> Promise:
        pipe = self._pipes[self._turn]
        self._turn = (self._turn + 1) % len(self._pipes)
        try:
            pipe.send(list(texts))
        except OSError as error:
            raise lost_process() from error
        return lambda: received(pipe)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()
            process.close()


def received(pipe: Connection) -> list[Ids]:
    """The answer to the batch sent before."""
    try:
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        raise lost_process() from error
    if isinstance(answer, Exception):
        raise answer
    ids, lengths = answer
    return np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []


def lost_process() -> UserError:
    return UserError(
        "A process that tokenizes the corpus ended before its work was done (is memory short?); "
        "try again, with data.processes set to 1."
    )


def encode_on_request(pipe: Connection, saved: Path) -> None:
    """What a process does: texts in, (ids, lengths) or an exception out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides what it means
    try:
        tokenizer = load_tokenizer(saved)
        while True:
            texts = pipe.recv()
            try:
                encoded = [np.array(tokenizer.encode(text), dtype=np.uint32) for text in texts]
                answer: object = (np.concatenate(encoded), [len(ids) for ids in encoded]) if encoded else ([], [])
            except Exception as error:  # noqa: BLE001  raised where the answer is awaited
                answer = error
            pipe.send(answer)
    except (EOFError, OSError):
        return  # nobody waits any more
