"""Export a checkpoint into a folder that appears only when it is complete."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from llm.errors import UserError, WrongUse, reason_of
from llm.events import Progress
from llm.files import published_directory
from llm.interop.formats import Format, fitting_formats, in_words
from llm.interop.source import Source


def export(source: Source, format: Format, dtype: str, target: Path) -> Generator[Progress, None, Path]:
    """Write `source` to the new folder `target`, which is returned. UserError where the model does not fit."""
    if dtype not in format.dtypes:
        raise WrongUse(f"{format.name} has no dtype {dtype}; use one of {', '.join(format.dtypes)}.")
    if reason := format.problem(source.shape, source.tokenizer):
        fitting = in_words(fitting_formats(source.shape, source.tokenizer))
        raise UserError(f"{source.title} does not fit the format {format.name}: {reason}. It fits {fitting}.")
    if target.exists():
        raise WrongUse(f"{target} exists already; choose another folder with --out, or delete it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with published_directory(target) as staging:
            yield from format.load().write(source, staging, dtype)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({reason_of(error)}); choose another folder.") from error
    return target
