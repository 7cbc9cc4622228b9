"""Errors that the user can fix. A message says what is wrong with which thing, why, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class UserError(Exception):
    """An error shown as its message, without a traceback; exit status 1."""

    exit_status = 1


class WrongUse(UserError):
    """Invalid input (a name, a field, a flag); exit status 2."""

    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One error in a configuration: the dotted path of the field, and a message."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(WrongUse):
    """All errors of a configuration."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def reason_of(error: Exception) -> str:
    """The message of an error about a file, without the name of the file."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def problem_of(call: Callable[[], object]) -> str:
    """The message of the UserError or ValueError that `call` raises; "" if it raises none."""
    try:
        call()
    except (UserError, ValueError) as error:
        return str(error)
    return ""
