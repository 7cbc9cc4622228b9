"""Errors a person can cause. Each message is one sentence: the thing, why, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class UserError(Exception):
    """Something the person can mend. Shown as its message alone, never as a traceback; exit status 1."""

    exit_status = 1


class WrongUse(UserError):
    """The request itself is wrong (a name, a field, a flag); exit status 2."""

    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One fault in a configuration: the dotted path of the field and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(WrongUse):
    """Every fault found in a configuration, reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
