"""Fixtures that several of the workbench's tests use by name, and what makes starting an app in a test cheap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from textual.css import stylesheet
from textual.css.model import RuleSet

from llm.config.sizes import MachineSpeed
from tests.workbench.pictures_for_tests import look, still_home
from tests.workbench.waiting import record_notifications

__all__ = ["look", "still_home"]


@pytest.fixture(autouse=True)
def _recorded_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """`notifications(app)` and `was_notified(app, words)` work in every test."""
    record_notifications(monkeypatch)


@pytest.fixture(autouse=True)
def _cheap_starts(monkeypatch: pytest.MonkeyPatch, parsed_styles: ParsedStyles) -> None:
    """An app that starts does not collect all garbage (0.2 s; tested in `test_garbage.py`), and takes the rules that
    an earlier app has parsed (0.1 s)."""
    monkeypatch.setattr("workbench.app.freeze_loaded_objects", lambda: None)
    monkeypatch.setattr("workbench.train.service.freeze_loaded_objects", lambda: None)
    monkeypatch.setattr(stylesheet, "parse", parsed_styles.parse)


@pytest.fixture(autouse=True)
def _usual_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of the speed for which presets are made: what is trained does not depend on the one that tests."""
    monkeypatch.setattr("workbench.presets.screen.measure_with_torch", lambda config: MachineSpeed(1e11, 1e11))


@pytest.fixture(scope="session")
def parsed_styles() -> ParsedStyles:
    return ParsedStyles()


class ParsedStyles:
    """Textual's parser of style sheets, which remembers its results for the apps of later tests."""

    def __init__(self) -> None:
        self._parse = stylesheet.parse
        self._palettes: list[dict[str, Any]] = []
        self._rules: dict[tuple[object, ...], list[RuleSet]] = {}

    def parse(self, scope: str, css: str, read_from: Any, *, variable_tokens: Any, **options: Any) -> Iterable[RuleSet]:
        key = (scope, css, read_from, self._palette(variable_tokens), *sorted(options.items()))
        if key not in self._rules:
            self._rules[key] = list(self._parse(scope, css, read_from, variable_tokens=variable_tokens, **options))
        return self._rules[key]

    def _palette(self, variables: dict[str, Any]) -> int:
        """The number of a theme's variables: equal variables have the same."""
        if variables not in self._palettes:
            self._palettes.append(variables)
        return self._palettes.index(variables)
