"""Downloads from a server on this machine that drops, corrupts, refuses and hangs, and how they continue."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

import pytest

from llm.data.text.datasets import local_copy
from llm.data.text.download import PARTIAL, download
from llm.data.text.fetch import RetryPolicy
from llm.errors import UserError
from tests.data.text.http_for_tests import BODY, SHA256, Behaviour, Site, content, fetched, text_set

pytestmark = pytest.mark.usefixtures("text")


def test_a_dropped_connection_continues_where_it_was(
    site: Site, home: Path, retry: RetryPolicy, waits: list[float]
) -> None:
    site.script = [Behaviour(drop_after=300_000), Behaviour(drop_after=100_000)]
    fetched(text_set(site), home, retry)
    assert content(home) == BODY
    assert [request[1:] for request in site.requests] == [
        ("", ""),
        ("bytes=300000-", '"one"'),
        ("bytes=400000-", '"one"'),
    ]
    assert waits == [1.0, 1.0]  # each brought something new


def test_an_interrupted_download_continues_in_another_process(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(drop_after=300_000)]
    generator = download(text_set(site), home, retry=RetryPolicy(attempts=1))
    with pytest.raises(UserError, match="the partial download is kept"):
        list(generator)
    assert local_copy(text_set(site), home) is None
    fetched(text_set(site), home, retry)
    assert site.requests[-1][1] == "bytes=300000-"
    assert content(home) == BODY


def test_a_closed_generator_leaves_what_came(site: Site, home: Path, retry: RetryPolicy) -> None:
    generator = download(text_set(site), home, retry=retry)
    while not next(generator).stage.startswith("Down"):
        pass
    generator.close()
    assert (home / "datasets" / "plays" / PARTIAL / "text.txt").stat().st_size > 0
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


def test_a_file_that_changed_meanwhile_is_started_again(site: Site, home: Path, retry: RetryPolicy) -> None:
    new = BODY[::-1]
    site.script = [Behaviour(drop_after=300_000)]
    with pytest.raises(UserError):
        list(download(text_set(site), home, retry=RetryPolicy(attempts=1)))
    site.files["/text.txt"], site.etags["/text.txt"] = new, '"two"'
    fetched(text_set(site, hashlib.sha256(new).hexdigest()), home, retry)
    assert content(home) == new


def test_a_server_without_ranges_is_asked_for_all_of_it(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(drop_after=300_000), Behaviour(ignore_range=True)]
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_joined(site: Site, home: Path, retry: RetryPolicy, etag: str) -> None:
    site.etags["/text.txt"] = etag
    site.script = [Behaviour(drop_after=300_000)]
    fetched(text_set(site), home, retry)
    assert [request[1] for request in site.requests] == ["", ""]
    assert content(home) == BODY


def test_a_date_is_a_validator_too(site: Site, home: Path, retry: RetryPolicy) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    site.etags["/text.txt"] = ""
    site.script = [Behaviour(drop_after=300_000, headers={"Last-Modified": date})]
    fetched(text_set(site), home, retry)
    assert site.requests[-1][1:] == ("bytes=300000-", date)
    assert content(home) == BODY


def test_a_range_other_than_the_one_asked_for_is_not_joined(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(drop_after=300_000), Behaviour(range_shift=7)]
    fetched(text_set(site, sha256=""), home, retry)
    assert content(home) == BODY


def test_corrupt_bytes_are_fetched_once_more(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(body=b"x" + BODY[1:])]
    fetched(text_set(site), home, retry)
    assert content(home) == BODY
    assert [request[1] for request in site.requests] == ["", ""]


def test_a_corrupt_beginning_of_an_earlier_download_is_thrown_away(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(body=b"x" + BODY[1:], drop_after=300_000)]
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


def test_bytes_that_stay_corrupt_are_never_published(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.files["/text.txt"] = b"x" + BODY[1:]
    with pytest.raises(UserError, match=f"not the expected {SHA256}"):
        fetched(text_set(site), home, retry)
    assert not (home / "datasets" / "plays" / "text.txt").exists()
    assert local_copy(text_set(site), home) is None


def test_an_unpublished_checksum_is_stored_and_then_required(site: Site, home: Path, retry: RetryPolicy) -> None:
    unknown = text_set(site, sha256="")
    assert fetched(unknown, home, retry).first_seen == {"text.txt": SHA256}
    (home / "datasets" / "plays" / "text.txt").unlink()
    site.files["/text.txt"] = BODY[::-1]
    with pytest.raises(UserError, match=f"not the expected {SHA256}"):
        fetched(unknown, home, retry)
    site.files["/text.txt"] = BODY
    assert fetched(unknown, home, retry).first_seen == {}
    (home / "datasets" / "plays" / "text.txt").write_bytes(BODY[::-1])
    fetched(unknown, home, retry)
    assert content(home) == BODY, "what is here is compared with it, too"


def test_too_short_a_body_is_not_taken_for_the_file(
    site: Site, home: Path, retry: RetryPolicy, waits: list[float]
) -> None:
    site.script = [Behaviour(extra_length=9)] * 20
    with pytest.raises(UserError, match="closed early"):
        fetched(text_set(site, sha256=""), home, retry)
    assert len(site.requests) < 12


def test_without_a_length_the_end_is_the_end(site: Site, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(no_length=True)]
    fetched(text_set(site), home, retry)
    assert content(home) == BODY


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_for_good_is_reported_at_once(
    site: Site, home: Path, retry: RetryPolicy, waits: list[float], status: int
) -> None:
    site.script = [Behaviour(status=status)]
    with pytest.raises(UserError, match=f"HTTP {status}.*data.corpus"):
        fetched(text_set(site), home, retry)
    assert waits == []


def test_a_busy_server_is_asked_again_later_and_later(
    site: Site, home: Path, retry: RetryPolicy, waits: list[float]
) -> None:
    site.script = [Behaviour(status=503), Behaviour(status=429, headers={"Retry-After": "7"}), Behaviour(status=500)]
    fetched(text_set(site), home, retry)
    assert waits == [1.0, 7.0, 4.0]


def test_a_server_that_stays_busy_is_given_up(site: Site, home: Path, retry: RetryPolicy, waits: list[float]) -> None:
    site.script = [Behaviour(status=503)] * 9
    with pytest.raises(UserError, match=r"did not deliver .* \(HTTP 503"):
        fetched(text_set(site), home, retry)
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_that_says_nothing_is_not_waited_for(site: Site, home: Path, waits: list[float]) -> None:
    site.script = [Behaviour(hang=True)] * 2
    with pytest.raises(UserError, match="did not answer in time"):
        fetched(text_set(site), home, RetryPolicy(attempts=2, timeout=0.1, sleep=waits.append))


def test_a_download_from_a_silent_server_can_be_canceled(site: Site, home: Path) -> None:
    site.script = [Behaviour(hang=True)]
    steps = download(text_set(site), home, retry=RetryPolicy(timeout=600.0))
    began = time.monotonic()
    for _ in range(3):
        next(steps)
    steps.close()
    assert time.monotonic() - began < 60


def test_offline_it_says_what_to_do(home: Path, retry: RetryPolicy) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = Site(url=f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(UserError, match=r"refused.*data\.corpus to stories, pylib, or a local file"):
        fetched(text_set(gone), home, retry)
