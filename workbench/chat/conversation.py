"""A conversation as a tree: editing a prompt, or asking for another reply, adds a branch and loses nothing."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from llm.config import DecodeConfig, RunConfig, from_mapping, to_mapping

Kind = Literal["text", "turn", "on"]
"""A text of its own, a question with its answer, or more of the reply before."""

KnobChanges = tuple[tuple[int, DecodeConfig], ...]
"""(tokens written before, the knobs from there on) for every change while a reply was written."""


@dataclass
class Exchange:
    """A prompt and what the model wrote.

    `parent` is the number of the exchange before it, 0 for none. `file_text` is that of the file that `prompt` names,
    where it names one. `context` is the whole text the model was given, `begun` its tokens where the tokenizer would
    make others of it: those of a reply that goes on. `tokens` is what it wrote as ids, of which the first `given` were
    chosen by the person. `model` is RUN@STEP, `sha256`
    that of its weights' file ("" for weights that are in no file), `params` those of the first token. `problem` says
    why there is no reply, where there is none. `dropped_turns` had no room in the context, and `dropped` tokens left it
    while the reply was written.
    """

    number: int
    parent: int
    kind: Kind
    prompt: str
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
    changes: KnobChanges = ()
    dropped_turns: int = 0
    dropped: int = 0
    written: float = field(default_factory=time.time)

    @property
    def is_turn(self) -> bool:
        return self.kind == "turn"

    @property
    def question(self) -> str:
        """What was asked: the prompt, or the text of the file it names."""
        return self.file_text or self.prompt

    @property
    def start(self) -> str | list[int]:
        """What the model was given, as exactly as it is known."""
        return self.begun or self.context

    def params_at(self, token: int) -> DecodeConfig:
        """The knobs that token number `token` of the reply was drawn with."""
        return next((params for count, params in reversed(self.changes) if count <= token - self.given), self.params)

    def to_record(self) -> dict[str, Any]:
        """As plain data, for a line of JSON."""
        record = asdict(self)
        del record["params"]
        record["knobs"] = params_to_mapping(self.params)  # the name in the file format
        record["seed"] = self.params.seed
        record["changes"] = [[count, params_to_mapping(params)] for count, params in self.changes]
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Exchange:
        """The exchange of a line. ValueError, KeyError or TypeError where it is none; ConfigError for unknown knobs."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        known["params"] = params_from(record["knobs"])
        known["changes"] = tuple((int(count), params_from(mapping)) for count, mapping in record.get("changes", ()))
        for name in ("begun", "tokens"):
            known[name] = [int(token) for token in record.get(name, ())]
        known["others"] = tuple(str(text) for text in record.get("others", ()))
        exchange = cls(**known)
        names = ("prompt", "file_text", "context", "reply", "model", "sha256", "device", "reason", "problem")
        texts = [getattr(exchange, name) for name in names]
        numbers = (exchange.number, exchange.parent, exchange.given, exchange.dropped_turns, exchange.dropped)
        if exchange.kind not in ("text", "turn", "on") or not 0 <= exchange.parent < exchange.number:
            raise ValueError("no exchange of a conversation")
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
            raise TypeError("a field of the wrong kind")
        return exchange


def params_to_mapping(params: DecodeConfig) -> dict[str, Any]:
    """All knobs by name, as plain data."""
    mapping: dict[str, Any] = to_mapping(RunConfig(decode=params))["decode"]
    return mapping


def params_from(mapping: dict[str, Any]) -> DecodeConfig:
    """The knobs that `params_to_mapping` wrote. ConfigError names what is wrong."""
    return from_mapping({"decode": mapping}).decode


class Conversation:
    """Every exchange there was, and which of them are shown: the way from the first to `leaf`.

    `file` is where it is kept, once it is.
    """

    def __init__(self) -> None:
        self.exchanges: dict[int, Exchange] = {}
        self.leaf = 0
        self.file: Path | None = None
        self.created = time.time()

    def add(self, kind: Kind, prompt: str, parent: int) -> Exchange:
        """A new exchange after the one numbered `parent`; it is shown from now on."""
        exchange = Exchange(max(self.exchanges, default=0) + 1, parent, kind, prompt)
        self.insert(exchange)
        return exchange

    def insert(self, exchange: Exchange) -> None:
        """Take over an exchange as it is; its parent must be here."""
        if exchange.parent and exchange.parent not in self.exchanges:
            raise ValueError(f"exchange {exchange.number} follows {exchange.parent}, which is not here")
        self.exchanges[exchange.number] = exchange
        self.leaf = exchange.number

    def path(self) -> list[Exchange]:
        """What is shown: from the first exchange to the leaf."""
        found: list[Exchange] = []
        number = self.leaf
        while number:
            found.append(self.exchanges[number])
            number = found[-1].parent
        return found[::-1]

    def siblings(self, exchange: Exchange) -> list[Exchange]:
        """All exchanges with the same one before them, itself among them, oldest first."""
        return [one for one in self.exchanges.values() if one.parent == exchange.parent]

    def place(self, exchange: Exchange) -> tuple[int, int]:
        """Which of how many siblings it is, counted from 1."""
        siblings = self.siblings(exchange)
        return siblings.index(exchange) + 1, len(siblings)

    def turn_to(self, exchange: Exchange) -> None:
        """Show `exchange`, and below it always the newest branch."""
        number = exchange.number
        while below := [one.number for one in self.exchanges.values() if one.parent == number]:
            number = below[-1]
        self.leaf = number

    def sibling(self, exchange: Exchange, by: int) -> Exchange:
        """The next (1) or the former (-1) sibling, round and round; it is shown from now on."""
        siblings = self.siblings(exchange)
        chosen = siblings[(siblings.index(exchange) + by) % len(siblings)]
        self.turn_to(chosen)
        return chosen

    def before(self, exchange: Exchange) -> list[Exchange]:
        """The exchanges that lead to this one, oldest first."""
        found: list[Exchange] = []
        number = exchange.parent
        while number:
            found.append(self.exchanges[number])
            number = found[-1].parent
        return found[::-1]

    def history(self, exchange: Exchange) -> list[tuple[str, str]]:
        """The questions right before a question that have answers, oldest first; none before a text."""
        if not exchange.is_turn:
            return []
        turns = takewhile(lambda one: one.is_turn, reversed(self.before(exchange)))
        return [(one.question, one.reply.strip()) for one in turns if one.reply.strip()][::-1]
