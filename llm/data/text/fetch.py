"""Fetching one file over HTTP so that what has come is never fetched twice, with the standard library alone.

`<part>` grows by appending. Beside it, `<part>.json` keeps what the server said of the file (its ETag or date, its
size): a later request asks for the rest "if it is still that file" (RFC 9110, Range and If-Range), and begins anew
where it is not, or where the server has no ranges.
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

from llm.data.background import beside
from llm.errors import UserError
from llm.files import write_json
from llm.reader import Malformed, load_json

CHUNK_BYTES = 1 << 18
SPARE_BYTES = 64 << 20
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 60.0
MOST_DIGITS = 18


@dataclass(frozen=True)
class Patience:
    """`attempts` in a row that bring nothing new are the end; the wait before each doubles. `timeout` is for one answer
    of the server, `overall` for a whole file, however slowly it trickles in. Times in seconds."""

    attempts: int = 5
    first_wait: float = 1.0
    timeout: float = 30.0
    overall: float = 24 * 3600.0
    sleep: Callable[[float], None] = time.sleep


def fetch(url: str, part: Path, patience: Patience) -> Generator[tuple[int, int], None, None]:
    """Bring `part` to the whole of what is at `url`, going on where it stands; yields (bytes done, total or 0).

    Raises UserError where the server refuses, cannot be reached or takes too long, or the disk is full. What has come
    stays in `part`.
    """
    failures, furthest = 0, size_of(part)
    end = time.monotonic() + patience.overall
    while True:
        pause = 0.0
        try:
            if (yield from within(end, attempt(url, part, patience.timeout), url, patience)):
                return
            reason = "the connection was closed early"
        except urllib.error.HTTPError as error:
            with error:
                reason, pause = refusal(url, error)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = network_reason(url, error)
        except ValueError as error:  # what urllib raises at an address that a server redirects to
            raise UserError(f"{url} cannot be had ({error}); check the address, or get the file elsewhere.") from error
        came = size_of(part) > furthest
        furthest = max(furthest, size_of(part))
        failures = 1 if came else failures + 1
        if failures >= patience.attempts:
            raise UserError(
                f"{urlsplit(url).netloc} did not deliver {url} ({reason}); try again later, what has come is kept, or "
                "take text that is here: data.corpus stories, pylib, or a file."
            )
        wait = min(LONGEST_WAIT, max(pause, patience.first_wait * 2 ** (failures - 1)))
        for _ in beside(slept(patience, wait)):
            yield furthest, 0


def within(
    end: float, pieces: Generator[tuple[int, int], None, bool], url: str, patience: Patience
) -> Generator[tuple[int, int], None, bool]:
    """What `pieces` yields and returns; UserError once the clock has passed `end`."""
    with closing(pieces):
        try:
            while True:
                done = next(pieces)
                if time.monotonic() > end:
                    raise UserError(
                        f"{url} did not arrive within {patience.overall / 3600:g} hours; run the download again, what "
                        "has come is kept, or get the file elsewhere and name its path in data.corpus."
                    )
                yield done
        except StopIteration as stop:
            return bool(stop.value)


def slept(patience: Patience, seconds: float) -> Generator[None, None, None]:
    """Wait; there is nothing to be had meanwhile."""
    patience.sleep(seconds)
    yield


def attempt(url: str, part: Path, timeout: float) -> Generator[tuple[int, int], None, bool]:
    """One request; whether the file is whole after it. Lets the errors of urllib and http.client pass."""
    have, known = size_of(part), read_note(part)
    if have and have == known.get("total"):
        return True
    request = urllib.request.Request(url, headers={"User-Agent": "llm-workbench", "Accept-Encoding": "identity"})
    if have and known.get("validator"):
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["validator"])
    with closing(beside(received(request, timeout))) as pieces:
        try:
            while (response := next(pieces)) is None:
                yield have, 0
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            error.close()
            part.unlink()  # longer than what is there: begin anew
            return False
        have, total = placed(response, part, have)
        if have < 0:
            return False
        ensure_room(part.parent, total - have)
        with opened(part, "ab" if have else "wb") as file:
            for chunk in pieces:
                write(file, chunk or b"", part)
                have += len(chunk or b"")
                yield have, total
    return have == total if total else have > 0


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within http or https, and from http to https; refuses every other change of scheme."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after != before and (before, after) != ("http", "https"):
            raise UserError(
                f"{req.full_url} redirects from {before} to {after} ({newurl}), which is refused; get the file "
                "elsewhere, or download that address if you trust it."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def received(request: urllib.request.Request, timeout: float) -> Generator[Any, None, None]:
    """The response of a server, and then its body in pieces."""
    with urllib.request.build_opener(Redirects).open(request, timeout=timeout) as response:
        yield response
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk


def placed(response: Any, part: Path, have: int) -> tuple[int, int]:
    """Where the body of `response` belongs in `part`, and the size of the whole (0: unknown); −1: nowhere."""
    if response.status == 206:
        given = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "")
        )
        if given is None or int(given[1]) != have:
            part.unlink(missing_ok=True)
            return -1, 0
        return have, 0 if given[2] == "*" else int(given[2])
    total = promised_size(response)
    etag = response.headers.get("ETag", "")
    # A weak ETag cannot vouch for bytes (RFC 9110, 13.1.5).
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    part.unlink(missing_ok=True)  # before the note: it must never speak of bytes of another file
    write_json(note_path(part), {"url": response.geturl(), "validator": validator, "total": total})
    return 0, total


def promised_size(response: Any) -> int:
    """Bytes of the whole file as the server says; 0 where it does not say. UserError where that cannot be true."""
    length = response.headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]+", length):
        return 0
    if len(length) > MOST_DIGITS:
        raise UserError(
            f"{response.geturl()} promises a size of {len(length):,} digits, which cannot be; get the file elsewhere."
        )
    return int(length)


def source_of(url: str, part: Path) -> str:
    """The host that sends the file, where `url` redirects to another one; "" where it does not, or is not known yet."""
    sender = urlsplit(str(read_note(part).get("url", ""))).netloc
    return sender if sender and sender != urlsplit(url).netloc else ""


def note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def read_note(part: Path) -> dict[str, Any]:
    """What was noted of an unfinished file; nothing where that is lost or damaged, which only costs a new beginning."""
    try:
        note = load_json(note_path(part))
    except (OSError, Malformed):
        return {}
    return note if isinstance(note, dict) else {}


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def opened(part: Path, mode: str) -> BinaryIO:
    try:
        return part.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise local_problem(part, error) from error


def write(file: BinaryIO, chunk: bytes, part: Path) -> None:
    """Write to the disk; its errors are not the network's, and are not tried again."""
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise local_problem(part, error) from error


def local_problem(part: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"{part} cannot be written ({reason}); free some space there or give another --home.")


def ensure_room(folder: Path, needed: int) -> None:
    """UserError unless the disk under `folder` has room for `needed` more bytes, and some to spare."""
    free = shutil.disk_usage(folder).free
    if needed > 0 and free < needed + SPARE_BYTES:
        raise UserError(
            f"{folder} has room for {free / 1e6:,.0f} MB, but {(needed + SPARE_BYTES) / 1e6:,.0f} MB are needed; free "
            "some space or give another --home."
        )


def refusal(url: str, error: urllib.error.HTTPError) -> tuple[str, float]:
    """Why the server said no for now, and for how many seconds it wants to be left alone; UserError if for good."""
    if error.code not in PASSING:
        raise UserError(
            f"{url} cannot be had (HTTP {error.code} {error.reason}); check the address, or get the file elsewhere and "
            "name its path in data.corpus."
        ) from error
    wait = error.headers.get("Retry-After", "")
    seconds = float(wait) if re.fullmatch("[0-9]{1,9}", wait) else 0.0
    return f"HTTP {error.code} {error.reason}", seconds


def network_reason(url: str, error: Exception) -> str:
    """What went wrong on the way, in a few words; UserError where trying again cannot help."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise UserError(
            f"{urlsplit(url).netloc} has no certificate that this machine trusts ({cause.verify_message}); check the "
            "machine's clock and certificates, or get the file elsewhere."
        ) from error
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)) or type(cause).__name__
