"""Downloads from a server on this machine that drops, corrupts, refuses and hangs; and what is said offline."""

from __future__ import annotations

import hashlib
import http.client
import io
import random
import socket
import stat
import time
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm.core.bundle import bundle_folder, load_bundle
from llm.data.text import fetch
from llm.data.text.datasets import RECORD, NamedDataset, RemoteFile, local_copy
from llm.data.text.download import PARTIAL, download, lock_partial
from llm.data.text.fetch import RetryPolicy
from llm.errors import UserError, WrongUse
from llm.events import Progress
from tests.core.bundles_for_tests import write_bundle
from tests.data.text.http_for_tests import Behaviour, Site, fetched, serving
from workbench.formatting import describe_progress

BODY = random.Random(3).randbytes(700_001)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def text(site: Site) -> None:
    """The file that most tests fetch."""
    site.files["/text.txt"] = BODY
    site.etags["/text.txt"] = '"one"'


def text_set(site: Site, sha256: str = SHA256, size: int = len(BODY)) -> NamedDataset:
    return NamedDataset(
        "plays", "a test", (RemoteFile("text.txt", site.url + "/text.txt", size, sha256),), train="text.txt"
    )


def shard_set(site: Site, count: int = 3) -> NamedDataset:
    for number in range(count):
        site.files[f"/{number}.txt"] = f"shard {number}\n".encode() * 50
    files = tuple(RemoteFile(f"{n}.txt", f"{site.url}/{n}.txt", 400) for n in range(count))
    return NamedDataset("shards", "a test", files, train=".", sharded=True)


def content(home: Path) -> bytes:
    return (home / "datasets" / "plays" / "text.txt").read_bytes()


# --- what works


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


# --- whom it is fetched from


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


# --- what goes wrong on the way


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


# --- this machine


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


# --- shards and archives


def test_more_shards_are_added_to_those_that_are_here(site: Site, home: Path, retry: RetryPolicy) -> None:
    dataset = shard_set(site)
    assert list(fetched(dataset, home, retry).here.files) == ["0.txt"]
    assert sorted(fetched(dataset, home, retry, shards=3).here.files) == ["0.txt", "1.txt", "2.txt"]
    assert [request[0] for request in site.requests] == ["/0.txt", "/1.txt", "/2.txt"]
    assert len(fetched(dataset, home, retry).here.files) == 3  # fewer are asked for: the others stay


def test_the_shards_before_a_failure_are_here(site: Site, home: Path, retry: RetryPolicy) -> None:
    dataset = shard_set(site)
    del site.files["/2.txt"]
    with pytest.raises(UserError, match="404"):
        fetched(dataset, home, retry, shards=3)
    here = local_copy(dataset, home)
    assert here is not None
    assert sorted(here.files) == ["0.txt", "1.txt"]


def test_numbers_of_shards_that_cannot_be(site: Site, home: Path, retry: RetryPolicy) -> None:
    with pytest.raises(WrongUse, match="from 1 to 3"):
        fetched(shard_set(site), home, retry, shards=4)
    with pytest.raises(WrongUse, match="has no shards"):
        fetched(text_set(site), home, retry, shards=2)


def zipped(members: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, body in members.items():
            bundle.writestr(name, body)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            bundle.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def archive_set(site: Site, body: bytes) -> NamedDataset:
    site.files["/bundle.zip"] = body
    return NamedDataset(
        "core", "a test", (RemoteFile("bundle.zip", site.url + "/bundle.zip", len(body)),), unpacked_bytes=1000
    )


def test_the_core_bundle_is_unpacked_and_can_be_used(
    site: Site, home: Path, tmp_path: Path, retry: RetryPolicy
) -> None:
    source = write_bundle(tmp_path / "source" / "eval_bundle").parent
    members = {str(path.relative_to(source)): path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()}
    dataset = archive_set(site, zipped(members))
    result = fetched(dataset, home, retry)
    assert sorted(result.here.files) == sorted(members)
    assert len(load_bundle(bundle_folder("", home))) == 3
    assert not (home / "datasets" / "core" / PARTIAL).exists()
    (home / "datasets" / "core" / "eval_bundle" / "core.yaml").write_text("damaged")
    fetched(dataset, home, retry)  # the whole of it is put back
    assert len(load_bundle(bundle_folder("", home))) == 3
    assert len(site.requests) == 2


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ({"../escaped.txt": b"x"}, ()),
        ({"good.txt": b"x", "a/../../../escaped.txt": b"x"}, ()),
        ({"/escaped.txt": b"x"}, ()),
        ({"..\\escaped.txt": b"x"}, ()),
        ({}, ("link",)),
    ],
)
def test_an_archive_cannot_write_outside_its_folder(
    site: Site, home: Path, retry: RetryPolicy, members: dict[str, bytes], links: tuple[str, ...]
) -> None:
    dataset = archive_set(site, zipped(members, links))
    with pytest.raises(UserError, match="outside its folder"):
        fetched(dataset, home, retry)
    assert not list(home.rglob("escaped*"))
    assert not list(home.parent.glob("escaped*"))
    assert not list(home.rglob("good*"))
    assert local_copy(dataset, home) is None


@pytest.mark.parametrize(
    "body",
    [b"not a zip", zipped({"a.txt": b"a" * 5000})[:-30], b"", zipped({"ä.txt": b"a"}).replace(b"\xc3", b"\xff")],
    ids=["text", "cut", "empty", "bad name"],
)
def test_a_broken_archive_is_reported_and_fetched_again(
    site: Site, home: Path, retry: RetryPolicy, body: bytes
) -> None:
    dataset = archive_set(site, body)
    with pytest.raises(UserError, match=r"run the download again|is empty"):
        fetched(dataset, home, retry)
    site.files["/bundle.zip"] = zipped({"a.txt": b"a"})
    assert list(fetched(dataset, home, retry).here.files) == ["a.txt"]
