"""Configuration fields among the arguments: `--train.lr 3e-4`, `--train.lr=3e-4`, `--model.bias`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from llm.config.check import LENGTHS
from llm.config.fields import FALSE_WORDS, TRUE_WORDS, fields_of
from llm.config.renamed import current_path
from llm.config.schema import RunConfig
from llm.errors import ConfigError, Problem

Overrides = Sequence[tuple[str, str]]


def split_overrides(arguments: Sequence[str], own_flags: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(arguments of the command, (dotted path, text) of each configuration field).

    Every `--flag` that is not one of `own_flags` is read as a field, so that a mistyped one is reported with all other
    problems of the configuration, whether a value follows or not. A boolean field without a value means true.
    """
    own: list[str] = []
    overrides: list[tuple[str, str]] = []
    missing: list[Problem] = []
    queue = deque(arguments)
    while queue:
        argument = queue.popleft()
        flag, assigned, value = argument.partition("=")
        if not flag.startswith("--") or flag == "--" or flag in own_flags:
            own.append(argument)
            continue
        path = current_path(flag.removeprefix("--").replace("-", "_"))
        text = value if assigned else take_value(path, queue)
        if text is None:
            missing.append(Problem(path, f"needs a value: --{path} VALUE"))
        else:
            overrides.append((path, text))
    if missing:
        raise ConfigError(missing)
    return own, overrides


def take_value(path: str, queue: deque[str]) -> str | None:
    """The value of the field at `path`, taken from the front of `queue`; None if it is missing.

    A boolean field without a value is true. A field that does not exist needs none: it is an error in any case.
    """
    field = next((field for field in fields_of(RunConfig) if field.path == path), None)
    has_value = bool(queue) and not queue[0].startswith("--")
    if field is not None and field.type is bool:
        is_given = has_value and queue[0].lower() in TRUE_WORDS + FALSE_WORDS
        return queue.popleft() if is_given else "true"
    if has_value:
        return queue.popleft()
    return "" if field is None else None


def merge_overrides(kept: Mapping[str, str], overrides: Overrides) -> dict[str, str]:
    """`kept` updated with `overrides`, by path; a new length replaces one of another kind."""
    lengths = {f"train.{name}" for name in LENGTHS}
    if any(path in lengths for path, _ in overrides):
        kept = {path: text for path, text in kept.items() if path not in lengths}
    return {**kept, **dict(overrides)}
