"""Saved conversations: `<home>/transcripts/*.jsonl`, a header line and a line per exchange, append-only.

Each line is one `write`, so a reader never sees a part of it; an incomplete last line after a crash is skipped.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm.errors import UserError, reason_of
from llm.events import is_unix_time
from llm.files import write_atomic
from llm.reader import WRONG_SHAPE, Malformed, parse_json, read_bytes
from llm.run.log import LineAppender
from workbench.chat.conversation import Conversation, Exchange

FORMAT = 1
FOLDER = "transcripts"
EXPORTS = "exports"
MAX_BYTES = 256 << 20
MOST_LISTED = 2000


@dataclass(frozen=True)
class PastConversation:
    """A saved conversation in a list, with all its text for searching."""

    file: Path
    created: float
    models: tuple[str, ...]
    """The models that replied."""
    prompt: str
    exchanges: int
    text: str


def save_exchange(home: Path, conversation: Conversation, exchange: Exchange) -> None:
    """Append a finished exchange to the file of its conversation. UserError if it cannot be written."""
    lines = b""
    if conversation.file is None:
        moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(conversation.created))
        conversation.file = home / FOLDER / f"{moment}-{secrets.token_hex(3)}.jsonl"
        lines = line_of({"format": FORMAT, "type": "conversation", "created": conversation.created})
    lines += line_of({"type": "exchange"} | exchange.to_record())
    try:
        conversation.file.parent.mkdir(parents=True, exist_ok=True)
        appender = LineAppender(conversation.file)
        try:
            whole = appender.append(lines)
        finally:
            appender.close()
    except OSError as error:
        raise UserError(f"{conversation.file} cannot be written ({error.strerror}); the reply is not saved.") from error
    if not whole:
        raise UserError(
            f"{conversation.file} was not written completely; the reply is not saved. Check the disk space."
        )


def line_of(record: dict[str, Any]) -> bytes:
    """One line of JSON. Lone surrogates, which UTF-8 cannot encode, are escaped."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False).encode() + b"\n"


def records(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file. UserError if it cannot be read or has a newer format."""
    try:
        data = read_bytes(file, MAX_BYTES)
    except (OSError, Malformed) as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)}); choose another conversation.") from error
    for line in data.splitlines():
        try:
            record = parse_json(line)
        except Malformed:
            continue  # incomplete after a crash
        if isinstance(record, dict):
            version = record.get("format", 0)
            if record.get("type") == "conversation" and isinstance(version, int) and version > FORMAT:
                raise UserError(f"{file} was written by a newer llm-workbench; upgrade to read it.")
            yield record


def load(file: Path) -> Conversation:
    """Load a conversation. Damaged lines and the exchanges after them are skipped."""
    conversation = Conversation()
    conversation.file = file
    for record in records(file):
        if record.get("type") == "conversation" and is_unix_time(record.get("created")):
            conversation.created = float(record["created"])
        elif record.get("type") == "exchange":
            try:
                conversation.insert(Exchange.from_record(record))
            except (UserError, *WRONG_SHAPE):
                continue
    return conversation


def list_conversations(home: Path) -> list[PastConversation]:
    """The conversations of `home`, newest first. Unreadable files are skipped."""
    found = []
    for file in sorted((home / FOLDER).glob("*.jsonl"), reverse=True)[:MOST_LISTED]:
        try:
            conversation = load(file)
        except UserError:
            continue
        if conversation.exchanges:
            found.append(summarize(conversation, file))
    return found


def summarize(conversation: Conversation, file: Path) -> PastConversation:
    """The list entry of a conversation."""
    exchanges = list(conversation.exchanges.values())
    models = tuple(dict.fromkeys(one.model for one in exchanges if one.model))
    words = " ".join(text for one in exchanges for text in (one.prompt, one.file_text, one.reply, one.model))
    return PastConversation(file, conversation.created, models, exchanges[0].prompt, len(exchanges), words.casefold())


def recent_prompts(home: Path, files: int = 50) -> list[str]:
    """The prompts of the newest conversations of `home`, oldest first, without consecutive repetitions."""
    prompts: list[str] = []
    for file in sorted((home / FOLDER).glob("*.jsonl"))[-files:]:
        try:
            sent = [one.prompt for one in load(file).exchanges.values() if one.prompt.strip()]
        except UserError:
            continue
        prompts += [prompt for before, prompt in pairwise(["", *sent]) if prompt != before]
    return prompts


# Exports


def export(home: Path, conversation: Conversation) -> tuple[Path, Path]:
    """Write the visible branch as Markdown and all branches as JSONL; returns both paths."""
    stem = conversation.file.stem if conversation.file is not None else time.strftime("%Y%m%d-%H%M%S")
    folder = home / EXPORTS
    markdown, jsonl = folder / f"{stem}.md", folder / f"{stem}.jsonl"
    lines = b"".join(line_of(one.to_record()) for one in conversation.exchanges.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(markdown, as_markdown(conversation).encode("utf-8", "replace"))
        write_atomic(jsonl, lines)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); free some disk space, or check its permissions."
        ) from error
    return markdown, jsonl


def as_markdown(conversation: Conversation) -> str:
    """The visible branch as Markdown; prompts and replies are in code blocks."""
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.created))
    parts = [f"# Conversation of {moment}\n"]
    for exchange in conversation.path():
        seed = f"seed {exchange.params.seed}, temperature {exchange.params.temperature:g}"
        live = ", in training" if exchange.live else ""
        if exchange.kind != "on":
            file = f"{code_block(exchange.prompt)}\n\n" if exchange.file_text else ""
            parts.append(f"**Prompt**\n\n{file}{code_block(exchange.question)}\n")
        parts.append(f"**{exchange.model or 'no model'}**{live} ({seed})\n")
        if exchange.reply or not exchange.problem:
            parts.append(f"{code_block(exchange.reply)}\n")
        parts += [f"sample {number}:\n\n{code_block(text)}\n" for number, text in enumerate(exchange.others, 2)]
        if exchange.problem:
            parts.append(f"failed:\n\n{code_block(exchange.problem)}\n")
    return "\n".join(parts)


def code_block(text: str) -> str:
    """A Markdown code block with a fence longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
