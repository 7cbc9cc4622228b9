"""The published bundle of tasks: `core.yaml` (the index), `eval_data/*.jsonl`, `eval_meta_data.csv` (baselines).

The index is read by PyYAML, since it has comments, block lists and both kinds of quoted strings.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from llm.errors import UserError, reason_of
from llm.files import expand_user
from llm.reader import WRONG_SHAPE, Malformed, parse_json, read_bytes

INDEX, DATA, BASELINES = "core.yaml", "eval_data", "eval_meta_data.csv"
FOLDER_IN_ARCHIVE = "eval_bundle"
DATASET = "core"
MAX_BYTES = 256 << 20  # of one file

Kind = Literal["multiple_choice", "schema", "language_modeling"]


@dataclass(frozen=True)
class Example:
    """One question: (context, continuation) pairs, of which that with index `gold` is correct.

    multiple_choice: one context, several continuations; schema: several contexts, one continuation; language_modeling:
    one pair, whose continuation the model must predict.
    """

    options: tuple[tuple[str, str], ...]
    gold: int


@dataclass(frozen=True)
class Task:
    """`shots` solved examples precede each question; `delimiter` joins context and continuation; `baseline` is the
    accuracy of guessing."""

    label: str
    kind: Kind
    shots: int
    delimiter: str
    baseline: float
    examples: tuple[Example, ...]


def bundle_folder(path: str, home: Path) -> Path:
    """The folder of the bundle at `path`, or of the downloaded one if `path` is empty. UserError if there is none."""
    folder = expand_user(path) if path else home / "datasets" / DATASET
    for place in (folder, folder / FOLDER_IN_ARCHIVE):
        if (place / INDEX).is_file():
            return place
    if path:
        raise UserError(f"{folder} contains no {INDEX}; give the folder of a CORE bundle.")
    raise UserError(
        f"The CORE bundle is not downloaded; run: llm-workbench data download {DATASET} (or give a folder with "
        f"{INDEX}, {DATA} and {BASELINES})."
    )


def load_bundle(folder: Path) -> tuple[Task, ...]:
    """Every task of the bundle in `folder`. UserError names the file and line that is missing or invalid."""
    baselines = read_baselines(folder / BASELINES)
    tasks = tuple(read_task(folder, entry, line, baselines) for entry, line in read_index(folder / INDEX))
    labels = [task.label for task in tasks]
    repeated = next((label for label in labels if labels.count(label) > 1), None)
    if repeated:
        raise UserError(f"{folder / INDEX} lists the task {repeated} twice; remove one of them.")
    return tasks


def read_index(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Every entry of `icl_tasks`, with its line number."""
    import yaml  # slow to import

    try:
        loader = yaml.SafeLoader(read_text(path))
        root = loader.get_single_node()
        listed = [value for key, value in getattr(root, "value", ()) if getattr(key, "value", "") == "icl_tasks"]
        nodes = listed[0].value if listed and isinstance(listed[0], yaml.SequenceNode) else []
        entries = [(loader.construct_document(node), node.start_mark.line + 1) for node in nodes]
    except (yaml.YAMLError, RecursionError, *WRONG_SHAPE) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path} line {mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where} is not YAML ({reason}); correct it or restore it from the bundle.") from error
    if not entries:
        raise UserError(f"{path} lists no tasks; add a list under icl_tasks.")
    for entry, line in entries:
        if not isinstance(entry, dict):
            raise UserError(f"{path} line {line}: a task must be a mapping of label, dataset_uri, icl_task_type, ….")
        yield entry, line


def read_task(folder: Path, entry: dict[str, Any], line: int, baselines: dict[str, float]) -> Task:
    """The task of one entry of the index."""
    where = f"{folder / INDEX} line {line}"
    label, kind, uri = (text_field(entry, key, where) for key in ("label", "icl_task_type", "dataset_uri"))
    if kind not in get_args(Kind):
        raise UserError(f"{where}: the type of {label} must be one of {', '.join(get_args(Kind))}, not {kind}.")
    shots = entry.get("num_fewshot", 0)
    shots = shots[0] if isinstance(shots, list) and shots else shots
    if not isinstance(shots, int) or isinstance(shots, bool) or shots < 0:
        raise UserError(f"{where}: num_fewshot of {label} must be a number, or a list that starts with one.")
    delimiter = entry.get("continuation_delimiter", " ")
    if not isinstance(delimiter, str):
        raise UserError(f"{where}: continuation_delimiter of {label} must be text; put it in quotes.")
    if label not in baselines:
        raise UserError(f"{folder / BASELINES} has no row for {label}; add one with its random baseline in percent.")
    try:
        data = (folder / DATA / uri).resolve()
        is_inside = data.is_relative_to((folder / DATA).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a NUL byte
        raise UserError(
            f"{where}: dataset_uri {uri} of {label} is not the name of a file ({reason_of(error)})."
        ) from error
    if not is_inside:
        raise UserError(f"{where}: dataset_uri {uri} of {label} is outside {DATA}; give a file inside it.")
    examples = tuple(read_examples(data, cast(Kind, kind)))
    if len(examples) <= shots:
        raise UserError(f"{data} has {len(examples)} examples, too few for {shots} shots before each; add some.")
    return Task(label, cast(Kind, kind), shots, delimiter, baselines[label], examples)


def read_baselines(path: Path) -> dict[str, float]:
    """Task → accuracy of guessing in [0, 1); the file has it in percent."""
    reader, baselines = csv.DictReader(io.StringIO(read_text(path), newline="")), {}
    try:
        for row in reader:
            baselines[row["Eval Task"]] = share = float(row["Random baseline"]) / 100
            if not 0 <= share < 1:
                where = f"{path} line {reader.line_num}"
                raise UserError(f"{where}: a random baseline must be at least 0 and below 100 percent.")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        reason = f"{path} line {reader.line_num} needs the columns Eval Task and Random baseline, a number"
        raise UserError(f"{reason}; correct the row.") from error
    return baselines


def read_examples(path: Path, kind: Kind) -> Iterator[Example]:
    """The examples of a JSONL file, one per line; UserError names the line that is not an example of `kind`."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            yield EXAMPLES[kind](record)
        except WRONG_SHAPE as error:
            fields = {
                "multiple_choice": "query, choices (a list of texts) and gold (the number of one of them)",
                "schema": "context_options (a list of texts), continuation and gold (the number of one of them)",
                "language_modeling": "context and continuation",
            }[kind]
            raise UserError(f"{path} line {number} is not a {kind} example, which has {fields}; correct it.") from error


def multiple_choice(record: dict[str, Any]) -> Example:
    query = as_text(record["query"])
    return make_example(tuple((query, as_text(choice)) for choice in record["choices"]), record["gold"])


def schema(record: dict[str, Any]) -> Example:
    continuation = as_text(record["continuation"])
    return make_example(
        tuple((as_text(context), continuation) for context in record["context_options"]), record["gold"]
    )


def language_modeling(record: dict[str, Any]) -> Example:
    """The example of a record. Whitespace around the context, which some datasets have by accident, is removed."""
    return Example(((as_text(record["context"]).strip(), as_text(record["continuation"])),), 0)


EXAMPLES: dict[Kind, Callable[[dict[str, Any]], Example]] = {
    "multiple_choice": multiple_choice,
    "schema": schema,
    "language_modeling": language_modeling,
}


def make_example(options: tuple[tuple[str, str], ...], gold: Any) -> Example:
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(options) or len(options) < 2:
        raise ValueError("gold")
    return Example(options, gold)


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def text_field(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: {key} is missing or not text; every task needs it.")
    return value


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file; UserError if it is missing or not text."""
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is missing from the CORE bundle; restore it or download the bundle again.") from None
    except (OSError, Malformed, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({reason_of(error)}); restore it or download the bundle again."
        ) from error
