"""Marks on replies, collected as conversations to train on: `<home>/conversations/*.jsonl`, a reply per line.

`good.jsonl` holds the replies marked good and the corrected ones, `bad.jsonl` those marked bad, and
`preferences.jsonl` each corrected reply as the better of two. The "messages" of a line end with the reply; the replies
before it have the weight 0, so that only the marked one is learned. The other fields say where it is from: "id"
(transcript and number), "mark", "model", "sha256", "prompt", "sampling" (all parameters) and "time"; a correction also
has the original "reply".
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm.errors import UserError, reason_of
from llm.file_locks import try_lock
from llm.files import write_atomic
from llm.reader import Malformed, parse_json, read_bytes
from workbench.chat.conversation import Conversation, Exchange, Mark, params_to_mapping
from workbench.chat.transcripts import MAX_BYTES, line_of

FOLDER = "conversations"
GOOD, BAD, PREFERENCES = "good.jsonl", "bad.jsonl", "preferences.jsonl"


def good_file(home: Path) -> Path:
    """The conversations to fine-tune on."""
    return home / FOLDER / GOOD


def preferences_file(home: Path) -> Path:
    """The corrections as preferences."""
    return home / FOLDER / PREFERENCES


def count_good(home: Path) -> int:
    """The number of replies to fine-tune on. UserError if they cannot be read."""
    return sum(isinstance(record, dict) for _, record in read_lines(good_file(home)))


def read_marks(home: Path, conversation: Conversation) -> dict[int, Mark]:
    """The marks on the replies of a conversation, by the number of the exchange. UserError if they cannot be read."""
    found: dict[int, Mark] = {}
    ids = {identity(conversation, exchange): exchange.number for exchange in conversation.exchanges.values()}
    for name in (BAD, GOOD):
        for _, record in read_lines(home / FOLDER / name):
            mark = mark_of(record)
            if mark is not None and record.get("id") in ids:
                found[ids[record["id"]]] = mark
    return found


def mark_of(record: Any) -> Mark | None:
    """The mark that a line records; None for another line."""
    if not isinstance(record, dict) or record.get("mark") not in ("good", "bad", "corrected"):
        return None
    if record["mark"] != "corrected":
        return Mark(record["mark"])
    try:
        return Mark("corrected", str(record["messages"][-1]["content"]))
    except (LookupError, TypeError):
        return None


def write_mark(home: Path, conversation: Conversation, exchange: Exchange, mark: Mark | None) -> None:
    """Replace the mark on a reply; None removes it. UserError if the files cannot be written."""
    name = identity(conversation, exchange)
    lines: dict[str, dict[str, Any]] = {}
    if mark is not None:
        record = {"id": name} | record_of(conversation, exchange, mark)
        lines[BAD if mark.verdict == "bad" else GOOD] = record
        if mark.verdict == "corrected" and exchange.reply.strip():
            lines[PREFERENCES] = {"id": name} | preference_of(record, exchange)
    folder = home / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            for file in (GOOD, BAD, PREFERENCES):
                replace_line(folder / file, name, lines.get(file))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); the mark is not saved.") from error


def identity(conversation: Conversation, exchange: Exchange) -> str:
    """The name of a saved reply: its transcript and its number."""
    stem = conversation.file.stem if conversation.file is not None else ""
    return f"{stem}/{exchange.number}"


def record_of(conversation: Conversation, exchange: Exchange, mark: Mark) -> dict[str, Any]:
    """The conversation up to a reply, or to its correction, and where it is from."""
    turns = [*conversation.history(exchange), (exchange.question, mark.answer or exchange.reply.strip())]
    messages: list[dict[str, Any]] = []
    if exchange.system:
        messages.append({"role": "system", "content": exchange.system})
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "weight": 0}]
    del messages[-1]["weight"]
    record = {
        "messages": messages,
        "mark": mark.verdict,
        "model": exchange.model,
        "sha256": exchange.sha256,
        "prompt": exchange.question,
        "sampling": params_to_mapping(exchange.params),
        "time": time.time(),
    }
    return record | ({"reply": exchange.reply.strip()} if mark.verdict == "corrected" else {})


def preference_of(record: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
    """A correction as a preference: the messages before, and both answers."""
    *prompt, chosen = record["messages"]
    rejected = {"role": "assistant", "content": exchange.reply.strip()}
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}


def replace_line(file: Path, name: str, record: dict[str, Any] | None) -> None:
    """Remove the line with this id, append `record`, and leave all other lines as they are."""
    old = list(read_lines(file))
    kept = [line for line, found in old if not (isinstance(found, dict) and found.get("id") == name)]
    if record is None and len(kept) == len(old):
        return
    write_atomic(file, b"".join([*(line + b"\n" for line in kept), line_of(record) if record else b""]))


def read_lines(file: Path) -> Iterator[tuple[bytes, Any]]:
    """The lines of a file, each with its JSON value, None if it is damaged. UserError if it cannot be read."""
    try:
        data = read_bytes(file, MAX_BYTES)
    except FileNotFoundError:
        return
    except (OSError, Malformed) as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)}); move it away, and mark again.") from error
    for line in data.splitlines():
        try:
            yield line, parse_json(line)
        except Malformed:
            yield line, None


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process changes its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try_lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)
