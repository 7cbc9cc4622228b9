"""Prompts: text typed by the user, `FILE:path`, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence

from llm.errors import UserError, WrongUse
from llm.files import expand_user
from llm.tokenizer.base import Tokenizer

FILE_PREFIX = "FILE:"


def resolve_prompt(text: str) -> str:
    """The content of the file for "FILE:path"; any other text unchanged. UserError if the file cannot be read."""
    if not text.startswith(FILE_PREFIX):
        return text
    name = text.removeprefix(FILE_PREFIX).strip()
    path = expand_user(name)
    if not name or not path.is_file():
        problem = "is not a file" if name and path.exists() else "does not exist"
        raise WrongUse(f"The prompt names the file {name!r}, which {problem}; check the path after FILE:.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"The prompt file {name!r} is not UTF-8 text (byte {error.start}); convert it first."
        ) from error
    except OSError as error:
        raise UserError(
            f"The prompt file {name!r} cannot be read ({error.strerror}); check its permissions."
        ) from error


def prompt_ids(tokenizer: Tokenizer, prompt: str | Sequence[int], *, separator_first: bool = False) -> list[int]:
    """The tokens of a prompt, at least one.

    Special tokens in the text become their ids. An empty prompt is the start of a document: the separator, or a line
    break if the tokenizer has none. `separator_first` puts the separator before a prompt that does not begin with it.
    """
    ids = tokenizer.encode(prompt, special=True) if isinstance(prompt, str) else list(prompt)
    unknown = next((id for id in ids if not 0 <= id < tokenizer.vocab_size), None)
    if unknown is not None:
        raise WrongUse(
            f"The prompt contains token {unknown}, but the tokenizer has only the ids 0 to {tokenizer.vocab_size - 1}."
        )
    separator = tokenizer.separator
    if separator is not None and (not ids or (separator_first and ids[0] != separator)):
        return [separator, *ids]
    return ids or _line_break(tokenizer)


def _line_break(tokenizer: Tokenizer) -> list[int]:
    """The tokens of a line break. WrongUse if the tokenizer cannot encode one."""
    try:
        ids = tokenizer.encode("\n")
    except UserError:
        ids = []
    if not ids:
        raise WrongUse("The prompt is empty, and this tokenizer has no separator and no line break; type a prompt.")
    return ids
