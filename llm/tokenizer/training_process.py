"""Training a tokenizer in a process of its own: the compiled trainers hold the interpreter until they are done.

The parent writes a folder with `request.json` and `texts`, runs `python -m llm.tokenizer.training_process FOLDER
PARENT`, and reads lines of JSON from its output: {"done": share}, then {"error": sentence} or nothing. The tokenizer is
in FOLDER/tokenizer then. The process is killed when the parent no longer wants it, and (on Linux) when the parent dies.
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

REQUEST, TEXTS, RESULT, COMPLAINTS = "request.json", "texts", "tokenizer", "stderr"
LENGTH_BYTES = 8
SMALL_TEXT_CHARACTERS = 1 << 17
"""Up to this, training takes well under a second, less than starting a process."""
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def learn_apart(
    config: TokenizerConfig, texts: Sequence[str], directory: Path, report: Callable[[float], None]
) -> Tokenizer:
    """`train_tokenizer(config, texts)` in another process, which works in a temporary folder in `directory`.

    `report` is called about ten times a second with the share done; what it raises ends the process at once. UserError
    where the tokenizer cannot be trained, or the process ends before its time.
    """
    from llm.tokenizer import train_tokenizer

    if sum(map(len, texts)) <= SMALL_TEXT_CHARACTERS:
        return train_tokenizer(config, texts, lambda done, total: report(done / total))
    with tempfile.TemporaryDirectory(prefix="learning-", dir=directory) as folder:
        return _learn_in(Path(folder), config, texts, report)


def _learn_in(
    folder: Path, config: TokenizerConfig, texts: Sequence[str], report: Callable[[float], None]
) -> Tokenizer:
    from llm.tokenizer import load_tokenizer

    (folder / REQUEST).write_text(json.dumps(asdict(config)), encoding="utf-8")
    with (folder / TEXTS).open("wb") as file:
        _write_texts(file, texts)
    with (folder / COMPLAINTS).open("wb") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "llm.tokenizer.training_process", str(folder), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
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
        raise UserError(_explain_end(process.returncode, folder / COMPLAINTS))
    return load_tokenizer(folder / RESULT)


def _follow(process: subprocess.Popen[bytes], report: Callable[[float], None]) -> str:
    """Report what the process writes until it ends; returns its error, or ""."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    waiting, done, problem, ended = b"", 0.0, "", False
    while not ended:
        try:
            process.wait(POLL_SECONDS)
            ended = True  # whatever it wrote is in the pipe now
        except subprocess.TimeoutExpired:
            pass
        *lines, waiting = (waiting + _read_available(output)).split(b"\n")
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


def _explain_end(returncode: int, complaints: Path) -> str:
    how = f"by signal {-returncode}" if returncode < 0 else f"with status {returncode}"
    lines = complaints.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    detail = f": {lines[-1]}" if lines else " (is memory short?)"
    return (
        f"The process that trains the tokenizer was ended {how}{detail}; try again, with a smaller tokenizer.train_mb "
        "or tokenizer.vocab_size."
    )


def _write_texts(file: BinaryIO, texts: Sequence[str]) -> None:
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        file.write(len(raw).to_bytes(LENGTH_BYTES, "little") + raw)


def _read_texts(file: BinaryIO) -> Iterator[str]:
    while length := file.read(LENGTH_BYTES):
        yield file.read(int.from_bytes(length, "little")).decode("utf-8", "surrogatepass")


# --- the process itself


def main() -> int:
    """Train what the folder asks for."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides what it means
    end_with(parent)

    from llm.config.schema import TokenizerConfig
    from llm.tokenizer import train_tokenizer

    request = json.loads((folder / REQUEST).read_bytes())
    config = TokenizerConfig(**request | {"special_tokens": tuple(request["special_tokens"])})
    with (folder / TEXTS).open("rb") as file:
        texts = list(_read_texts(file))
    told = 0.0

    def tell(done: float, total: float) -> None:
        nonlocal told
        if time.monotonic() - told > POLL_SECONDS:
            told = time.monotonic()
            say({"done": done / total})

    try:
        train_tokenizer(config, texts, tell).save(folder / RESULT)
    except UserError as error:
        say({"error": str(error)})
    return 0


def end_with(parent: int) -> None:
    """Have the system end this process when its parent dies, where it can do that (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None and sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def say(record: dict[str, object]) -> None:
    os.write(1, json.dumps(record).encode() + b"\n")


if __name__ == "__main__":
    configure_threads()
    sys.exit(main())
