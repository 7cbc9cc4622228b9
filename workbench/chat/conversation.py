"""A conversation as a tree: editing a prompt or regenerating a reply adds a branch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from llm.config import DecodeConfig, RunConfig, from_mapping, to_mapping

Kind = Literal["text", "turn", "on"]
"""A completion, a question with its answer, or the continuation of the previous reply."""

Verdict = Literal["good", "bad", "corrected"]

ParamsChanges = tuple[tuple[int, DecodeConfig], ...]
"""(tokens generated before, new parameters) for every change during a reply."""


@dataclass
class Exchange:
    """A prompt and its reply.

    `parent` is the number of the previous exchange, 0 for none. `system` is the system prompt of a turn. `file_text` is
    the text of the file that `prompt` names. `context` is the whole text given to the model, and `begun` its exact
    tokens if encoding the text would give different ones. `tokens` are the ids of the reply; the user chose the first
    `given`. `model` is RUN@STEP, `sha256` that of its file ("" without one), `params` those of the first token.
    `problem` says why there is no reply. `dropped_turns` did not fit into the context, and `dropped` tokens left it
    during the reply.
    """

    number: int
    parent: int
    kind: Kind
    prompt: str
    system: str = ""
    file_text: str = ""
    context: str = ""
    begun: list[int] = field(default_factory=list)
    reply: str = ""
    tokens: list[int] = field(default_factory=list)
    given: int = 0
    others: tuple[str, ...] = ()
    reason: str = ""
    problem: str = ""
    model: str = ""
    sha256: str = ""
    live: bool = False
    device: str = ""
    params: DecodeConfig = field(default_factory=DecodeConfig)
    changes: ParamsChanges = ()
    dropped_turns: int = 0
    dropped: int = 0
    written: float = field(default_factory=time.time)

    @property
    def is_turn(self) -> bool:
        return self.kind == "turn"

    @property
    def question(self) -> str:
        """The prompt, or the text of the file it names."""
        return self.file_text or self.prompt

    @property
    def start(self) -> str | list[int]:
        """The text given to the model, or its exact tokens if they are known."""
        return self.begun or self.context

    def extend(self, text: str, ids: tuple[int, ...]) -> str:
        """Append generated text and tokens; returns the text, without leading space at the start of an answer."""
        text = text.lstrip() if self.is_turn and not self.reply else text
        self.reply += text
        self.tokens += ids
        return text

    def params_at(self, token: int) -> DecodeConfig:
        """The parameters of token `token` of the reply."""
        return next((params for count, params in reversed(self.changes) if count <= token - self.given), self.params)

    def to_record(self) -> dict[str, Any]:
        """Plain data for a line of JSON."""
        record = asdict(self)
        del record["params"]
        record["knobs"] = params_to_mapping(self.params)  # the field's name in the file format
        record["seed"] = self.params.seed
        record["changes"] = [[count, params_to_mapping(params)] for count, params in self.changes]
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Exchange:
        """The exchange of a line. ValueError, KeyError, TypeError or ConfigError if malformed."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        known["params"] = params_from(record["knobs"])
        known["changes"] = tuple((int(count), params_from(mapping)) for count, mapping in record.get("changes", ()))
        for name in ("begun", "tokens"):
            known[name] = [int(token) for token in record.get(name, ())]
        known["others"] = tuple(str(text) for text in record.get("others", ()))
        exchange = cls(**known)
        names = ("prompt", "system", "file_text", "context", "reply", "model", "sha256", "device", "reason", "problem")
        texts = [getattr(exchange, name) for name in names]
        numbers = (exchange.number, exchange.parent, exchange.given, exchange.dropped_turns, exchange.dropped)
        if exchange.kind not in ("text", "turn", "on") or not 0 <= exchange.parent < exchange.number:
            raise ValueError("not an exchange of a conversation")
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
            raise TypeError("a field has the wrong type")
        return exchange


def params_to_mapping(params: DecodeConfig) -> dict[str, Any]:
    """All parameters by name, as plain data."""
    mapping: dict[str, Any] = to_mapping(RunConfig(decode=params))["decode"]
    return mapping


def params_from(mapping: dict[str, Any]) -> DecodeConfig:
    """The inverse of `params_to_mapping`. Raises ConfigError."""
    return from_mapping({"decode": mapping}).decode


@dataclass(frozen=True)
class Mark:
    """The user's rating of a reply; `answer` is the correction of a corrected one."""

    verdict: Verdict
    answer: str = ""


class Conversation:
    """A tree of exchanges; the visible branch is the path from the first to `leaf`.

    `system` is the system prompt of the next turn. `file` is its transcript, once it is saved. `marks` are those on its
    replies, by the number of the exchange.
    """

    def __init__(self) -> None:
        self.exchanges: dict[int, Exchange] = {}
        self.leaf = 0
        self.system = ""
        self.marks: dict[int, Mark] = {}
        self.file: Path | None = None
        self.created = time.time()

    def add(self, kind: Kind, prompt: str, parent: int) -> Exchange:
        """Add an exchange after the one numbered `parent`, and show it."""
        system = self.system if kind == "turn" else ""
        exchange = Exchange(max(self.exchanges, default=0) + 1, parent, kind, prompt, system)
        self.insert(exchange)
        return exchange

    def insert(self, exchange: Exchange) -> None:
        """Add an exchange unchanged. ValueError if its parent is missing."""
        if exchange.parent and exchange.parent not in self.exchanges:
            raise ValueError(f"exchange {exchange.number} follows {exchange.parent}, which is missing")
        self.exchanges[exchange.number] = exchange
        self.leaf, self.system = exchange.number, exchange.system

    def path(self) -> list[Exchange]:
        """The visible branch, from the first exchange to the leaf."""
        return self._path_to(self.leaf)

    def siblings(self, exchange: Exchange) -> list[Exchange]:
        """All exchanges with the same parent, including this one, oldest first."""
        return [one for one in self.exchanges.values() if one.parent == exchange.parent]

    def position(self, exchange: Exchange) -> tuple[int, int]:
        """(index from 1, number of siblings)."""
        siblings = self.siblings(exchange)
        return siblings.index(exchange) + 1, len(siblings)

    def switch_to(self, exchange: Exchange) -> None:
        """Show `exchange` and its newest descendants."""
        number = exchange.number
        while below := [one.number for one in self.exchanges.values() if one.parent == number]:
            number = below[-1]
        self.leaf = number

    def sibling(self, exchange: Exchange, by: int) -> Exchange:
        """Show the next (1) or previous (-1) sibling, cyclically, and return it."""
        siblings = self.siblings(exchange)
        chosen = siblings[(siblings.index(exchange) + by) % len(siblings)]
        self.switch_to(chosen)
        return chosen

    def before(self, exchange: Exchange) -> list[Exchange]:
        """The ancestors of an exchange, oldest first."""
        return self._path_to(exchange.parent)

    def _path_to(self, number: int) -> list[Exchange]:
        found: list[Exchange] = []
        while number:
            found.append(self.exchanges[number])
            number = found[-1].parent
        return found[::-1]

    def history(self, exchange: Exchange) -> list[tuple[str, str]]:
        """(question, answer) of the turns directly before a turn, oldest first; empty for a completion."""
        if not exchange.is_turn:
            return []
        turns = takewhile(lambda one: one.is_turn, reversed(self.before(exchange)))
        return [(one.question, one.reply.strip()) for one in turns if one.reply.strip()][::-1]
