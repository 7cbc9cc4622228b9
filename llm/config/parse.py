"""Configurations from mappings, TOML and dotted overrides, and back; every problem is reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import tomli_w

from llm.config.check import LENGTHS, check, get_value
from llm.config.fields import Field, fields_of, parse_value, shown, validate
from llm.config.renamed import current_path, current_value
from llm.config.schema import RunConfig
from llm.errors import ConfigError, Problem
from llm.names import did_you_mean
from llm.reader import Malformed
from llm.reader import parse_toml as parse_tables

RUN_TABLE = "run"  # a run's run.toml is a valid preset: this table of it is about the run, not its configuration


def from_mapping(mapping: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig:
    """The configuration that nested tables describe, on top of `base` (the defaults). Raises ConfigError."""
    config, problems = read_mapping(mapping, base or RunConfig())
    return checked(config, problems)


def before_added_fields() -> RunConfig:
    """The defaults that a configuration written whole by version 0.1.0 leaves unsaid: what that version did."""
    defaults = RunConfig()
    return replace(defaults, tokenizer=replace(defaults.tokenizer, train_sample="beginning"))


def from_toml(text: str) -> RunConfig:
    """The configuration a TOML text describes. Raises ConfigError."""
    return from_mapping(parse_toml(text))


def with_overrides(config: RunConfig, overrides: Iterable[tuple[str, str]]) -> RunConfig:
    """`config` with (dotted path, text) applied in order; hyphens count as underscores. Raises ConfigError."""
    changed, problems = read_overrides(config, overrides)
    return checked(changed, problems)


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """Nested tables of plain values, every field included, in the order of the schema."""
    tables: dict[str, Any] = _plain(config)
    return tables


def to_toml(config: RunConfig) -> str:
    """A TOML text from which `from_toml` makes an equal configuration."""
    return tomli_w.dumps(to_mapping(config))


def diff(a: RunConfig, b: RunConfig) -> list[tuple[str, Any, Any]]:
    """(path, value in a, value in b) of every field in which they differ."""
    pairs = ((field.path, get_value(a, field.path), get_value(b, field.path)) for field in fields_of(RunConfig))
    return [(path, left, right) for path, left, right in pairs if left != right]


def resumed_config(frozen: RunConfig, overrides: Iterable[tuple[str, str]]) -> RunConfig:
    """`frozen` with `overrides`; a `ConfigError` names every field that a run may not change on resuming."""
    config = with_overrides(frozen, overrides)
    safe = {field.path for field in fields_of(RunConfig) if field.safe}
    problems = [
        Problem(path, f"cannot change from {before} to {after} in a run that is made; fork it, or make another")
        for path, before, after in diff(frozen, config)
        if path not in safe
    ]
    if problems:
        raise ConfigError(problems)
    return config


def parse_toml(text: str, source: str = "") -> dict[str, Any]:
    """The tables of a TOML text; ConfigError naming `source` and the line where it is not TOML."""
    try:
        return parse_tables(text)
    except Malformed as error:
        raise ConfigError([Problem(source, f"this is not TOML: {error}")]) from None


def read_mapping(mapping: Mapping[str, Any], base: RunConfig) -> tuple[RunConfig, list[Problem]]:
    """`base` with the good values of `mapping`, and a problem for each of the others; not cross-checked yet."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    tables = {field.section for field in fields_of(RunConfig) if field.section}
    for key, value in mapping.items():
        if key in tables and not isinstance(value, Mapping):
            problems.append(Problem(key, f"is a table of fields, not a value ({shown(value)})"))
        elif isinstance(value, Mapping) and key != RUN_TABLE:
            values |= {f"{key}.{name}": item for name, item in value.items()}
        elif key != RUN_TABLE:
            values[key] = value
    known = _by_path()
    good: dict[str, Any] = {}
    for given, value in values.items():
        path = current_path(given)
        try:
            good[path] = validate(_field(path, known), current_value(path, value))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    return _assign(base, _one_length(good)), problems


def read_overrides(config: RunConfig, overrides: Iterable[tuple[str, str]]) -> tuple[RunConfig, list[Problem]]:
    """`config` with the good ones of `overrides`, and a problem for each of the others; not cross-checked yet."""
    known = _by_path()
    problems: list[Problem] = []
    good: dict[str, Any] = {}
    for given, text in overrides:
        path = current_path(given.replace("-", "_"))
        try:
            good[path] = parse_value(_field(path, known), current_value(path, text))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    return _assign(config, _one_length(good)), problems


def checked(config: RunConfig, problems: Iterable[Problem] = ()) -> RunConfig:
    """`config`, if neither `problems` nor the rules between fields speak against it; ConfigError with all otherwise.

    Where a value could not be read, a rule about that field would judge a value nobody gave: it stays silent.
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


def _one_length(values: dict[str, Any]) -> dict[str, Any]:
    """A length given here replaces a length of another kind that was there before."""
    if any(values.get(f"train.{name}") for name in LENGTHS):
        return {f"train.{name}": 0 for name in LENGTHS} | values
    return values


def _assign(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    tables: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        tables.setdefault(section, {})[name] = value
    top = tables.pop("", {})
    changed = {section: replace(getattr(config, section), **items) for section, items in tables.items()}
    return replace(config, **changed, **top)


def _plain(node: Any) -> Any:
    if is_dataclass(node):
        return {item.name: _plain(getattr(node, item.name)) for item in fields(node)}
    return list(node) if isinstance(node, tuple) else node
