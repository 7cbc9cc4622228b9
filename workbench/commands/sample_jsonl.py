"""`sample --jsonl`: one prompt per JSON line in, one reply per JSON line out, in the same order.

A field with the name of a sampling parameter sets it for that line; other fields are copied to the output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llm.config import DecodeConfig, fields_of, from_mapping
from llm.errors import UserError, WrongUse
from llm.events import Progress, finite
from llm.files import expand_user
from llm.reader import Malformed, parse_json
from llm.run import CheckpointInfo, Run
from workbench.commands.output import say

if TYPE_CHECKING:
    from llm.engine import Engine
    from llm.engine.batch import Completion

PARAMETERS = tuple(field.name for field in fields_of(DecodeConfig) if field.name != "weights")
WINDOW = 256
"""Lines that are read before replies are generated; among them, prompts of equal length form a batch."""


@dataclass(frozen=True)
class Line:
    """One prompt: the fields of its line, its tokens, and its sampling parameters."""

    fields: dict[str, Any]
    ids: list[int]
    params: DecodeConfig


def sample_lines(run: Run, info: CheckpointInfo, engine: Engine, source: str, params: DecodeConfig) -> None:
    """Print a line for every line of the file `source`, or of stdin for "-". UserError names an invalid line."""
    from llm.tokenizer.base import well_formed
    from workbench.commands.progress import progress_reporter

    with ExitStack() as stack:
        lines = read_lines(stack.enter_context(open_source(source)) if source != "-" else sys.stdin, engine, params)
        report = stack.enter_context(progress_reporter()).report if not sys.stdout.isatty() else lambda event: None
        written = 0
        for window in windows(lines):
            completions = complete_lines(engine, window, with_offset(written, report_prompts(report)))
            written += len(window)
            for line, completion in zip(window, completions, strict=True):
                samples = zip(completion.texts, completion.reasons, strict=True)
                result = line.fields | {
                    "run": run.name,
                    "step": info.step,
                    "seed": line.params.seed,
                    "prompt_tokens": completion.prompt_tokens,
                    "tokens": completion.tokens,
                    "samples": [{"text": text, "reason": reason} for text, reason in samples],
                }
                sys.stdout.write(well_formed(json.dumps(finite(result), ensure_ascii=False, allow_nan=False)) + "\n")
            sys.stdout.flush()


def windows(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """WINDOW lines at a time. An invalid line raises after the lines before it are yielded."""
    window: list[Line] = []
    try:
        for line in lines:
            window.append(line)
            if len(window) == WINDOW:
                yield window
                window = []
    except UserError:
        if window:
            yield window
        raise
    if window:
        yield window


def complete_lines(engine: Engine, lines: Sequence[Line], report: Callable[[int], object]) -> list[Completion]:
    """The replies in the order of the lines; lines with the same sampling parameters are generated together."""
    alike: dict[DecodeConfig, list[int]] = {}
    for index, line in enumerate(lines):
        alike.setdefault(line.params, []).append(index)
    found: dict[int, Completion] = {}
    for params, group in alike.items():
        ids = [lines[index].ids for index in group]
        completions = engine.complete(ids, params, report=with_offset(len(found), report))
        found |= zip(group, completions, strict=True)
    return [found[index] for index in range(len(lines))]


def with_offset(before: int, report: Callable[[int], object]) -> Callable[[int], object]:
    """Calls `report` with `before` added to its argument."""
    return lambda done: report(before + done)


def report_prompts(report: Callable[[Progress], object]) -> Callable[[int], object]:
    """Reports how many prompts are done; the total is not known."""
    return lambda done: report(Progress(stage="Generating", done=done, total=0, unit="prompts"))


def open_source(source: str) -> Any:
    path = expand_user(source)
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise WrongUse(f"--jsonl: {source!r} {problem}; name a file with one JSON value per line, or - for stdin.")
    return path.open(encoding="utf-8")


def read_lines(source: Iterable[str], engine: Engine, params: DecodeConfig) -> Iterator[Line]:
    """The prompts of lines like {"prompt": "Once", "id": 7} or "Once"; empty lines are skipped."""
    try:
        for number, text in enumerate(source, 1):
            if text.strip():
                yield read_line(number, text, engine, params)
    except UnicodeDecodeError as error:
        raise UserError(f"--jsonl: the file is not UTF-8 text ({error.reason}); convert it first.") from error


def read_line(number: int, text: str, engine: Engine, params: DecodeConfig) -> Line:
    """The prompt of one line. WrongUse names the line."""
    fields = parse_line(number, text)
    try:
        own = with_fields(params, fields)
        if changes := engine.tokenizer.prompt_changes(fields["prompt"]):
            say(f"warning: line {number}: {changes}")
        return Line(fields, engine.validate_prompt(fields["prompt"], own), own)
    except UserError as error:
        raise WrongUse(f"line {number}: {error}") from error


def with_fields(params: DecodeConfig, fields: Mapping[str, Any]) -> DecodeConfig:
    """`params` with the values of a line. ConfigError for an invalid value."""
    given = {name: fields[name] for name in PARAMETERS if name in fields}
    return from_mapping({"decode": asdict(params) | given}).decode if given else params


def parse_line(number: int, text: str) -> dict[str, Any]:
    """The fields of one line; "prompt" is a string."""
    try:
        value = parse_json(text)
    except Malformed as error:
        raise WrongUse(
            f'line {number} is not JSON ({error}); each line must be like {{"prompt": "Once"}} or "Once".'
        ) from error
    fields = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise WrongUse(f'line {number} has no prompt; each line must be like {{"prompt": "Once"}} or "Once".')
    return fields
