"""Fixtures that several of the workbench's tests use by name."""

import pytest

from tests.workbench.pictures_for_tests import look, still_home
from tests.workbench.waiting import record_notifications

__all__ = ["look", "still_home"]


@pytest.fixture(autouse=True)
def _recorded_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """`notifications(app)` and `was_notified(app, words)` work in every test."""
    record_notifications(monkeypatch)
