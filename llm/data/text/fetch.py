"""Resumable download of one file over HTTP, with the standard library alone.

`<part>` grows by appending. `<part>.json` records the file's ETag or date and its size. A later request asks for the
rest if the file is unchanged (RFC 9110, Range and If-Range), and starts over if it changed or the server has no ranges.
"""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from llm.data.background import iterate_in_thread
from llm.errors import UserError
from llm.files import write_json
from llm.reader import Malformed, load_json

CHUNK_BYTES = 1 << 18
SPARE_BYTES = 64 << 20
TEMPORARY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_WAIT_SECONDS = 60.0
MAX_SIZE_DIGITS = 18
MAX_REASON = 120


@dataclass(frozen=True)
class RetryPolicy:
    """Gives up after `attempts` in a row without new data; the wait before each doubles. `timeout` limits one response
    of the server, `overall` the whole file. Times in seconds."""

    attempts: int = 5
    first_wait: float = 1.0
    timeout: float = 30.0
    overall: float = 24 * 3600.0
    sleep: Callable[[float], None] = time.sleep


def fetch(url: str, part: Path, retry: RetryPolicy) -> Generator[tuple[int, int], None, None]:
    """Download `url` to `part`, resuming a partial download; yields (bytes done, total or 0).

    Raises UserError if the server refuses, cannot be reached or takes too long, or if the disk is full. The partial
    download stays in `part`.
    """
    failures, furthest = 0, size_of(part)
    end = time.monotonic() + retry.overall
    while True:
        pause = 0.0
        try:
            if (yield from enforce_deadline(end, request_once(url, part, retry.timeout), url, retry)):
                return
            reason = "the connection was closed early"
        except urllib.error.HTTPError as error:
            with error:
                reason, pause = http_failure(url, error)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = network_reason(url, error)
        except ValueError as error:  # raised by urllib for an invalid URL in a redirect
            raise UserError(
                f"{url} cannot be downloaded ({error}); check the URL, or get the file elsewhere."
            ) from error
        progressed = size_of(part) > furthest
        furthest = max(furthest, size_of(part))
        failures = 1 if progressed else failures + 1
        if failures >= retry.attempts:
            raise UserError(
                f"{urlsplit(url).netloc} did not deliver {url} ({reason}); try again later (the partial download is "
                "kept), or set data.corpus to stories, pylib, or a local file."
            )
        wait = min(MAX_WAIT_SECONDS, max(pause, retry.first_wait * 2 ** (failures - 1)))
        for _ in iterate_in_thread(sleep_once(retry, wait)):
            yield furthest, 0


def enforce_deadline(
    end: float, pieces: Generator[tuple[int, int], None, bool], url: str, retry: RetryPolicy
) -> Generator[tuple[int, int], None, bool]:
    """Yields and returns what `pieces` does; UserError once the clock has passed `end`."""
    with closing(pieces):
        try:
            while True:
                done = next(pieces)
                if time.monotonic() > end:
                    raise UserError(
                        f"{url} did not arrive within {retry.overall / 3600:g} hours; run the download again (the "
                        "partial download is kept), or get the file elsewhere and name its path in data.corpus."
                    )
                yield done
        except StopIteration as stop:
            return bool(stop.value)


def sleep_once(retry: RetryPolicy, seconds: float) -> Generator[None, None, None]:
    """A generator that waits before its only item."""
    retry.sleep(seconds)
    yield


def request_once(url: str, part: Path, timeout: float) -> Generator[tuple[int, int], None, bool]:
    """One request; returns whether the file is complete. Raises the errors of urllib and http.client."""
    have, known = size_of(part), read_metadata(part)
    if have and have == known.get("total"):
        return True
    request = urllib.request.Request(url, headers={"User-Agent": "llm-workbench", "Accept-Encoding": "identity"})
    if have and known.get("validator"):
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["validator"])
    with closing(iterate_in_thread(open_response(request, timeout))) as pieces:
        try:
            while (response := next(pieces)) is None:
                yield have, 0
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            error.close()
            part.unlink()  # longer than the file on the server: start over
            return False
        have, total = place_response(response, part, have)
        if have < 0:
            return False
        if not have and response.length == 0:
            raise empty_file(url)
        ensure_room(part.parent, total - have)
        with open_part(part, "ab" if have else "wb") as file:
            for chunk in pieces:
                write_chunk(file, chunk or b"", part)
                have += len(chunk or b"")
                yield have, total
    if not have and response.chunked:  # it ended as it should, with nothing in it
        raise empty_file(url)
    return have == total if total else have > 0


def empty_file(url: str) -> UserError:
    return UserError(f"{url} is empty (0 bytes); check the URL, or get the file elsewhere.")


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within http or https, and from http to https; refuses other changes of scheme."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after != before and (before, after) != ("http", "https"):
            raise UserError(
                f"{req.full_url} redirects from {before} to {after} ({newurl}), which is refused; get the file "
                "elsewhere, or download that URL if you trust it."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_response(request: urllib.request.Request, timeout: float) -> Generator[Any, None, None]:
    """Yields the response, then its body in pieces."""
    with urllib.request.build_opener(Redirects).open(request, timeout=timeout) as response:
        yield response
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk


def place_response(response: Any, part: Path, have: int) -> tuple[int, int]:
    """The offset of the body of `response` in `part` (-1: unusable) and the size of the whole file (0: unknown)."""
    if response.status == 206:
        given = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "")
        )
        if given is None or int(given[1]) != have:
            part.unlink(missing_ok=True)
            return -1, 0
        return have, 0 if given[2] == "*" else int(given[2])
    total = content_length(response)
    etag = response.headers.get("ETag", "")
    # A weak ETag does not identify bytes (RFC 9110, 13.1.5).
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    part.unlink(missing_ok=True)  # before the metadata, which must never describe bytes of another file
    write_json(metadata_path(part), {"url": response.geturl(), "validator": validator, "total": total})
    return 0, total


def content_length(response: Any) -> int:
    """Size of the whole file from the response header; 0 if unknown. UserError if it is impossible."""
    length = response.headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]+", length):
        return 0
    if len(length) > MAX_SIZE_DIGITS:
        raise UserError(
            f"{response.geturl()} promises a size of {len(length):,} digits, which is impossible; get the file "
            "elsewhere."
        )
    return int(length)


def source_of(url: str, part: Path) -> str:
    """The host that `url` redirects to; "" if it does not redirect or that is not known yet."""
    sender = urlsplit(str(read_metadata(part).get("url", ""))).netloc
    return sender if sender and sender != urlsplit(url).netloc else ""


def metadata_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def read_metadata(part: Path) -> dict[str, Any]:
    """The metadata of a partial download; {} if it is lost or damaged, and the download starts over."""
    try:
        metadata = load_json(metadata_path(part))
    except (OSError, Malformed):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def open_part(part: Path, mode: str) -> BinaryIO:
    try:
        return part.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise local_problem(part, error) from error


def write_chunk(file: BinaryIO, chunk: bytes, part: Path) -> None:
    """Write to the disk. Its errors are not network errors and are not retried."""
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise local_problem(part, error) from error


def local_problem(part: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"{part} cannot be written ({reason}); free some space there or give another --home.")


def ensure_room(folder: Path, needed: int) -> None:
    """UserError unless the disk of `folder` has room for `needed` more bytes and SPARE_BYTES."""
    free = shutil.disk_usage(folder).free
    if needed > 0 and free < needed + SPARE_BYTES:
        raise UserError(
            f"{folder} has room for {free / 1e6:,.0f} MB, but {(needed + SPARE_BYTES) / 1e6:,.0f} MB are needed; free "
            "some space or give another --home."
        )


def http_failure(url: str, error: urllib.error.HTTPError) -> tuple[str, float]:
    """The reason of a temporary failure and the seconds to wait (Retry-After); UserError if it is permanent."""
    if error.code not in TEMPORARY_STATUS:
        raise UserError(
            f"{url} cannot be downloaded (HTTP {error.code} {in_a_line(error.reason)}); check the URL, or get the file "
            "elsewhere and name its path in data.corpus."
        ) from error
    wait = error.headers.get("Retry-After", "")
    seconds = float(wait) if re.fullmatch("[0-9]{1,9}", wait) else 0.0
    return f"HTTP {error.code} {in_a_line(error.reason)}", seconds


def in_a_line(text: object) -> str:
    """The beginning of what a server sent, which may be any number of lines of any length."""
    return " ".join(str(text).split())[:MAX_REASON]


def network_reason(url: str, error: Exception) -> str:
    """The reason of a network error in a few words; UserError if retrying cannot help."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise UserError(
            f"{urlsplit(url).netloc} has no certificate that this machine trusts ({cause.verify_message}); check the "
            "machine's clock and certificates, or get the file elsewhere."
        ) from error
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, http.client.BadStatusLine) and str(cause):  # its message is all that was sent
        return f"it does not answer in HTTP: {in_a_line(ascii(str(cause)))}"
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return in_a_line(reason) or type(cause).__name__
