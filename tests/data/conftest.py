"""A web server for the tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm.data.text.fetch import RetryPolicy
from tests.data.text.http_for_tests import BODY, Site, serving


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A running server without files."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    """How long a download would have waited."""
    return []


@pytest.fixture
def retry(waits: list[float]) -> RetryPolicy:
    """Notes how long it would have waited, and does not."""
    return RetryPolicy(attempts=4, first_wait=1.0, timeout=5.0, sleep=waits.append)


@pytest.fixture
def text(site: Site) -> None:
    """The server has the file that most tests of downloads fetch."""
    site.files["/text.txt"] = BODY
    site.etags["/text.txt"] = '"one"'
