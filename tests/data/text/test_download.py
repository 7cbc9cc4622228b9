"""Downloads from a server on this machine: what arrives, redirects and headers, and the disk it goes to."""

from __future__ import annotations

import http.client
import io
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm.data.text import fetch
from llm.data.text.datasets import RECORD
from llm.data.text.download import PARTIAL, download, lock_partial
from llm.data.text.fetch import RetryPolicy
from llm.errors import UserError
from llm.events import Progress
from tests.data.text.http_for_tests import BODY, SHA256, Behaviour, Site, content, fetched, serving, text_set
from workbench.formatting import describe_progress

pytestmark = pytest.mark.usefixtures("text")


def test_a_file_arrives_whole_and_verified(site: Site, home: Path, retry: RetryPolicy) -> None:
    result = fetched(text_set(site), home, retry)
    assert content(home) == BODY
    assert result.first_seen == {}
    assert result.here.files == {"text.txt": {"size": len(BODY), "sha256": SHA256}}
    assert sorted(path.name for path in result.here.folder.iterdir()) == [RECORD, "text.txt"]
    assert site.requests == [("/text.txt", "", "")]


def test_what_is_here_is_verified_and_not_fetched_again(site: Site, home: Path, retry: RetryPolicy) -> None:
    fetched(text_set(site), home, retry)
    fetched(text_set(site), home, retry)
    assert len(site.requests) == 1


def test_a_copy_that_was_damaged_since_is_fetched_again(site: Site, home: Path, retry: RetryPolicy) -> None:
    fetched(text_set(site), home, retry)
    path = home / "datasets" / "plays" / "text.txt"
    path.write_bytes(BODY[:-1] + b"!")
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


def test_progress_tells_bytes_rate_and_time_left(site: Site, home: Path, retry: RetryPolicy) -> None:
    events = [event for event in download(text_set(site), home, retry=retry) if event.stage.startswith("Down")]
    assert events[-1].done == events[-1].total == pytest.approx(len(BODY) / 1e6)
    assert events[-1].unit == "MB"
    assert events[-1].rate > 0
    told = describe_progress(Progress(stage="Downloading plays", done=500.0, total=2227.75, unit="MB", rate=12.5))
    assert told == "Downloading plays 22% (500 MB of 2.23 GB), 12.5 MB/s, 2m 18s left"


def test_a_redirect_to_another_scheme_is_refused(site: Site, home: Path, retry: RetryPolicy) -> None:
    for target in ("ftp://127.0.0.1/text.txt", "file:///etc/passwd", "data:text/plain,x"):
        site.script = [Behaviour(status=302, headers={"Location": target})]
        with pytest.raises(UserError, match=r"(redirects from http to ftp|is not allowed)"):
            fetched(text_set(site), home, retry)
    assert not (home / "datasets" / "plays" / "text.txt").exists()


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://example.org/text.txt")
    with pytest.raises(UserError, match="redirects from https to http "):
        fetch.Redirects().redirect_request(request, None, 302, "Found", {}, "http://example.org/text.txt")
    upgraded = fetch.Redirects().redirect_request(
        urllib.request.Request("http://example.org/a"), None, 302, "Found", {}, "https://example.org/a"
    )
    assert upgraded is not None and upgraded.full_url == "https://example.org/a"


def test_a_redirect_to_another_host_is_reported(site: Site, home: Path, retry: RetryPolicy) -> None:
    with serving() as other:
        other.files["/moved.txt"] = BODY
        site.script = [Behaviour(status=302, headers={"Location": f"{other.url}/moved.txt"})]
        events = list(download(text_set(site), home, retry=retry))
    assert content(home) == BODY
    host = other.url.removeprefix("http://")
    assert any(event.stage == f"Downloading plays: text.txt (redirected to {host})" for event in events)


@pytest.mark.parametrize("target", ["http://[::1", "http://127.0.0.1:port/", "http://" + "x" * 300 + "/", "http://"])
def test_a_redirect_to_no_address_is_a_sentence(site: Site, home: Path, retry: RetryPolicy, target: str) -> None:
    site.script = [Behaviour(status=302, headers={"Location": target}) for _ in range(9)]
    with pytest.raises(UserError):
        fetched(text_set(site), home, retry)


def test_a_redirect_to_itself_is_one_line(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(status=302, headers={"Location": f"{site.url}/text.txt"}) for _ in range(40)]
    with pytest.raises(UserError, match="infinite loop") as caught:
        fetched(text_set(site), home, retry)
    assert "\n" not in str(caught.value)


def test_of_an_answer_that_is_not_http_the_beginning_is_shown() -> None:
    reason = fetch.network_reason("http://example.org/", http.client.BadStatusLine("\0\xff" * 30_000))
    assert reason.startswith("it does not answer in HTTP: '\\x00\\xff") and len(reason) < 200
    assert len(fetch.in_a_line("no spaces".replace(" ", "") * 1000)) <= 120


@pytest.mark.parametrize("how", [Behaviour(body=b""), Behaviour(body=b"", chunked=True), Behaviour(status=204)])
def test_an_empty_file_is_refused_at_the_first_answer(
    site: Site, home: Path, retry: RetryPolicy, how: Behaviour
) -> None:
    site.script = [how] * 9
    with pytest.raises(UserError, match=r"/text\.txt is empty \(0 bytes\); check the URL"):
        fetched(text_set(site), home, retry)
    assert len(site.requests) == 1


def test_a_file_in_chunks_arrives_whole(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(chunked=True)]
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


def test_a_length_of_thousands_of_digits_is_a_sentence(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(no_length=True, headers={"Content-Length": "9" * 6_000})]
    with pytest.raises(UserError, match="promises a size of 6,000 digits, which is impossible"):
        fetched(text_set(site), home, retry)


@pytest.mark.parametrize("length", ["²", "-5", "1e3", ""])
def test_a_length_that_is_no_number_is_none(site: Site, home: Path, retry: RetryPolicy, length: str) -> None:
    site.script = [Behaviour(no_length=True, headers={"Content-Length": length})]
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


def test_a_file_that_trickles_in_ends_after_the_time_there_is(site: Site, home: Path, retry: RetryPolicy) -> None:
    with pytest.raises(UserError, match=r"did not arrive within 0 hours; .* \(the partial download is kept"):
        fetched(text_set(site), home, replace(retry, overall=0.0))
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


def test_too_small_a_disk_is_reported_before_anything_is_fetched(
    site: Site, home: Path, retry: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: SimpleNamespace(free=64_700_000))
    with pytest.raises(UserError, match=r"has room for 65 MB, but 68 MB are needed"):
        fetched(text_set(site), home, retry)
    assert site.requests == []


def test_a_file_larger_than_promised_is_measured_against_the_disk(
    site: Site, home: Path, retry: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: SimpleNamespace(free=67_200_000))
    with pytest.raises(UserError, match="are needed"):
        fetched(text_set(site, size=5), home, retry)
    assert len(site.requests) == 1


def test_a_full_disk_is_not_tried_again(
    site: Site, home: Path, retry: RetryPolicy, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, chunk: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "open_part", lambda part, mode: Full())
    with pytest.raises(UserError, match="No space left on device"):
        fetched(text_set(site), home, retry)
    assert waits == []


def test_two_at_once_are_refused(site: Site, home: Path, retry: RetryPolicy) -> None:
    with (
        lock_partial(home / "datasets" / "plays" / PARTIAL),
        pytest.raises(UserError, match="plays is being downloaded by another process"),
    ):
        fetched(text_set(site), home, retry)
