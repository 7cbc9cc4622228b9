"""Configurations from mappings, TOML and dotted overrides, and back. All problems are reported together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import tomli_w

from llm.config.check import LENGTHS, check, get_value
from llm.config.fields import Field, fields_of, parse_value, quote, validate
from llm.config.renamed import current_path, current_value
from llm.config.schema import RunConfig
from llm.errors import ConfigError, Problem
from llm.names import did_you_mean
from llm.reader import Malformed
from llm.reader import parse_toml as parse_tables

RUN_TABLE = "run"  # a run.toml is a valid preset: this table describes the run, not its configuration


def from_mapping(mapping: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig:
    """The configuration of nested tables on top of `base` (the defaults). Raises ConfigError."""
    config, problems = read_mapping(mapping, base or RunConfig())
    return check_or_raise(config, problems)


def defaults_of_0_1_0() -> RunConfig:
    """Defaults for the fields that version 0.1.0 did not have: its behavior."""
    defaults = RunConfig()
    return replace(defaults, tokenizer=replace(defaults.tokenizer, train_sample="beginning"))


def from_toml(text: str) -> RunConfig:
    """The configuration of a TOML text. Raises ConfigError."""
    return from_mapping(parse_toml(text))


def with_overrides(config: RunConfig, overrides: Iterable[tuple[str, str]]) -> RunConfig:
    """`config` with (dotted path, text) applied in order; hyphens are read as underscores. Raises ConfigError."""
    changed, problems = read_overrides(config, overrides)
    return check_or_raise(changed, problems)


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """Nested tables of plain values of every field, in the order of the schema."""
    tables: dict[str, Any] = _to_plain(config)
    return tables


def to_toml(config: RunConfig) -> str:
    """A TOML text that `from_toml` reads as an equal configuration."""
    return tomli_w.dumps(to_mapping(config))


def diff(a: RunConfig, b: RunConfig) -> list[tuple[str, Any, Any]]:
    """(path, value in a, value in b) of every field that differs."""
    pairs = ((field.path, get_value(a, field.path), get_value(b, field.path)) for field in fields_of(RunConfig))
    return [(path, left, right) for path, left, right in pairs if left != right]


def resumed_config(frozen: RunConfig, overrides: Iterable[tuple[str, str]]) -> RunConfig:
    """`frozen` with `overrides`; a `ConfigError` names every field that cannot change when a run is resumed."""
    config = with_overrides(frozen, overrides)
    safe = {field.path for field in fields_of(RunConfig) if field.safe}
    problems = [
        Problem(path, f"cannot change from {before} to {after} in an existing run; fork it or start a new run")
        for path, before, after in diff(frozen, config)
        if path not in safe
    ]
    if problems:
        raise ConfigError(problems)
    return config


def parse_toml(text: str, source: str = "") -> dict[str, Any]:
    """The tables of a TOML text; ConfigError with `source` and the line if it is not TOML."""
    try:
        return parse_tables(text)
    except Malformed as error:
        raise ConfigError([Problem(source, f"is not valid TOML: {error}")]) from None


def read_mapping(mapping: Mapping[str, Any], base: RunConfig) -> tuple[RunConfig, list[Problem]]:
    """`base` with the valid values of `mapping`, and a problem for each of the others; not cross-checked."""
    given: dict[str, Any] = {}
    problems: list[Problem] = []
    tables = {field.section for field in fields_of(RunConfig) if field.section}
    for key, value in mapping.items():
        if key in tables and not isinstance(value, Mapping):
            problems.append(Problem(key, f"must be a table of fields, not {quote(value)}"))
        elif isinstance(value, Mapping) and key != RUN_TABLE:
            given |= {f"{key}.{name}": item for name, item in value.items()}
        elif key != RUN_TABLE:
            given[key] = value
    known = _by_path()
    values: dict[str, Any] = {}
    for name, value in given.items():
        path = current_path(name)
        try:
            values[path] = validate(_field(path, known), current_value(path, value))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    return with_values(base, _with_one_length(values)), problems


def read_overrides(config: RunConfig, overrides: Iterable[tuple[str, str]]) -> tuple[RunConfig, list[Problem]]:
    """`config` with the valid ones of `overrides`, and a problem for each of the others; not cross-checked."""
    known = _by_path()
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for name, text in overrides:
        path = current_path(name.replace("-", "_"))
        try:
            values[path] = parse_value(_field(path, known), current_value(path, text))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    return with_values(config, _with_one_length(values)), problems


def check_or_raise(config: RunConfig, problems: Iterable[Problem] = ()) -> RunConfig:
    """`config` if there are no `problems` and it passes all rules between fields; otherwise ConfigError with all.

    Rules about a field whose value could not be read are skipped: they would check its default.
    """
    found = list(problems)
    known = _by_path()
    unread = {known[problem.path].name for problem in found if problem.path in known}
    found += [problem for problem in check(config) if not unread & set(re.findall(r"\w+", str(problem)))]
    if found:
        raise ConfigError(found)
    return config


def _by_path() -> dict[str, Field]:
    return {field.path: field for field in fields_of(RunConfig)}


def _field(path: str, known: Mapping[str, Field]) -> Field:
    """The field at `path`; ValueError with a suggestion: its name or initials (learning_rate: lr) in any section, or
    the most similar path."""
    if path in known:
        return known[path]
    name = path.rpartition(".")[2]
    names = (name, "".join(word[:1] for word in name.split("_")))
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2] in names]
    hint = f"did you mean {same_name[0]}?" if same_name else did_you_mean(path, known)
    raise ValueError("; ".join(filter(None, ("there is no such field", hint))))


def _with_one_length(values: dict[str, Any]) -> dict[str, Any]:
    """`values` that set every other kind of length to 0 if they set one."""
    if any(values.get(f"train.{name}") for name in LENGTHS):
        return {f"train.{name}": 0 for name in LENGTHS} | values
    return values


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with valid values by dotted path."""
    tables: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        tables.setdefault(section, {})[name] = value
    top = tables.pop("", {})
    changed = {section: replace(getattr(config, section), **items) for section, items in tables.items()}
    return replace(config, **changed, **top)


def _to_plain(node: Any) -> Any:
    if is_dataclass(node):
        return {item.name: _to_plain(getattr(node, item.name)) for item in fields(node)}
    return list(node) if isinstance(node, tuple) else node
