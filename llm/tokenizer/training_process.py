"""Train a tokenizer in a separate process, because the compiled trainers hold the GIL until they are done.

The parent writes a folder with `request.json` and `texts`, runs `python -m llm.tokenizer.training_process FOLDER
PARENT`, and reads lines of JSON from its output: {"done": fraction}, and {"error": sentence} if it fails. The result is
FOLDER/tokenizer. The process is killed when the parent cancels and, on Linux, when the parent dies.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llm.environment import configure_threads
from llm.errors import UserError

if TYPE_CHECKING:
    from llm.config.schema import TokenizerConfig
    from llm.tokenizer.base import Tokenizer

REQUEST, TEXTS, RESULT, ERRORS = "request.json", "texts", "tokenizer", "stderr"
LENGTH_BYTES = 8
SMALL_TEXT_CHARACTERS = 1 << 17
"""A text of at most this size trains in less time than a process takes to start."""
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def train_in_subprocess(
    config: TokenizerConfig, texts: Sequence[str], directory: Path, report: Callable[[float], None]
) -> Tokenizer:
    """`train_tokenizer(config, texts)` in a subprocess, with a temporary folder in `directory`.

    `report` is called about ten times a second with the fraction done; an exception in it kills the process. Small
    texts are trained in this process. UserError if the tokenizer cannot be trained or the process ends early.
    """
    from llm.tokenizer import train_tokenizer

    if sum(map(len, texts)) <= SMALL_TEXT_CHARACTERS:
        return train_tokenizer(config, texts, lambda done, total: report(done / total))
    with tempfile.TemporaryDirectory(prefix="training-", dir=directory) as folder:
        return _train_in_folder(Path(folder), config, texts, report)


def _train_in_folder(
    folder: Path, config: TokenizerConfig, texts: Sequence[str], report: Callable[[float], None]
) -> Tokenizer:
    from llm.tokenizer import load_tokenizer

    (folder / REQUEST).write_text(json.dumps(asdict(config)), encoding="utf-8")
    with (folder / TEXTS).open("wb") as file:
        _write_texts(file, texts)
    with (folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "llm.tokenizer.training_process", str(folder), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        problem = _follow(process, report)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if problem:
        raise UserError(problem)
    if process.returncode:
        raise UserError(_exit_message(process.returncode, folder / ERRORS))
    return load_tokenizer(folder / RESULT)


def _follow(process: subprocess.Popen[bytes], report: Callable[[float], None]) -> str:
    """Report the progress of the process until it ends; returns its error, or ""."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    partial_line, done, problem, ended = b"", 0.0, "", False
    while not ended:
        try:
            process.wait(POLL_SECONDS)
            ended = True  # all its output is in the pipe now
        except subprocess.TimeoutExpired:
            pass
        *lines, partial_line = (partial_line + _read_available(output)).split(b"\n")
        for record in map(json.loads, lines):
            done, problem = float(record.get("done", done)), str(record.get("error", problem))
        report(done)
    return problem


def _read_available(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def _exit_message(returncode: int, errors: Path) -> str:
    how = f"by signal {-returncode}" if returncode < 0 else f"with status {returncode}"
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    detail = f": {lines[-1]}" if lines else " (out of memory?)"
    return (
        f"The process that trains the tokenizer ended {how}{detail}; try again with a smaller tokenizer.train_mb "
        "or tokenizer.vocab_size."
    )


def _write_texts(file: BinaryIO, texts: Sequence[str]) -> None:
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        file.write(len(raw).to_bytes(LENGTH_BYTES, "little") + raw)


def _read_texts(file: BinaryIO) -> Iterator[str]:
    while length := file.read(LENGTH_BYTES):
        yield file.read(int.from_bytes(length, "little")).decode("utf-8", "surrogatepass")


# --- The subprocess


def main() -> int:
    """Train the tokenizer that `request.json` in the folder describes."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent handles it
    die_with(parent)

    from llm.config.schema import TokenizerConfig
    from llm.tokenizer import train_tokenizer

    request = json.loads((folder / REQUEST).read_bytes())
    config = TokenizerConfig(**request | {"special_tokens": tuple(request["special_tokens"])})
    with (folder / TEXTS).open("rb") as file:
        texts = list(_read_texts(file))
    reported = 0.0

    def report(done: float, total: float) -> None:
        nonlocal reported
        if time.monotonic() - reported > POLL_SECONDS:
            reported = time.monotonic()
            write_record({"done": done / total})

    try:
        train_tokenizer(config, texts, report).save(folder / RESULT)
    except UserError as error:
        write_record({"error": str(error)})
    return 0


def die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent dies (Linux only)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None and sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def write_record(record: dict[str, object]) -> None:
    os.write(1, json.dumps(record).encode() + b"\n")


if __name__ == "__main__":
    configure_threads()
    sys.exit(main())
