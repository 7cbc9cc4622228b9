"""A template language for varied text: parse a template once, then write it many times.

{name}      the value of a role, the same throughout a story
[a|b|c]     one of these at random; they nest, and may be empty
<name>      a random line of a shared passage
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

TOKENS = re.compile(r"\{\w+\}|<[\w-]+>|[\[\]|]|[^\[\]|{}<>]+")


@dataclass(frozen=True)
class Slot:
    """The place of a role's value."""

    role: str


@dataclass(frozen=True)
class Choice:
    """One of several templates."""

    options: tuple[Template, ...]


Part: TypeAlias = "str | Slot | Choice"
Template: TypeAlias = "tuple[Part, ...]"
Shared: TypeAlias = "Mapping[str, Choice]"


def parse(text: str, shared: Shared) -> Template:
    """A template from its text. ValueError for an unclosed bracket or an unknown passage."""
    choice, rest = parse_options(TOKENS.findall(text), shared)
    if rest or "".join(TOKENS.findall(text)) != text:
        raise ValueError(f"unbalanced: {text}")
    return choice.options[0] if len(choice.options) == 1 else (choice,)


def parse_options(tokens: Sequence[str], shared: Shared) -> tuple[Choice, Sequence[str]]:
    """The alternatives up to the closing bracket or the end, and the remaining tokens."""
    options: list[Template] = []
    parts: list[Part] = []
    while tokens and tokens[0] != "]":
        token, tokens = tokens[0], tokens[1:]
        if token == "|":
            options.append(tuple(parts))
            parts = []
        elif token == "[":
            inner, tokens = parse_options(tokens, shared)
            if not tokens:
                raise ValueError("a bracket is not closed")
            parts.append(inner)
            tokens = tokens[1:]
        else:
            parts.append(parse_plain(token, shared))
    return Choice((*options, tuple(parts))), tokens


def parse_plain(token: str, shared: Shared) -> Part:
    if token.startswith("{"):
        return Slot(token[1:-1])
    if not token.startswith("<"):
        return token
    if token[1:-1] not in shared:
        raise ValueError(f"there is no shared passage {token}")
    return shared[token[1:-1]]


def write(template: Template, roles: Mapping[str, str], draw: Callable[[], float], out: list[str]) -> None:
    """Append the text of a template to `out`. `draw` returns uniform numbers in [0, 1)."""
    for part in template:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, Slot):
            out.append(roles[part.role])
        else:
            write(part.options[int(draw() * len(part.options))], roles, draw, out)


def parts_of(template: Template) -> Iterator[str | Slot]:
    """Every piece of text and every slot that a template can write."""
    for part in template:
        if isinstance(part, Choice):
            for option in part.options:
                yield from parts_of(option)
        else:
            yield part
