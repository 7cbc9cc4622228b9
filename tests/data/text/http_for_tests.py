"""A web server on this machine that behaves as badly as it is told to."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from llm.data.text.datasets import NamedDataset, RemoteFile
from llm.data.text.download import DownloadResult, download
from llm.data.text.fetch import RetryPolicy
from tests.draining import result_of


@dataclass
class Behaviour:
    """How one request is answered. `drop_after`: bytes of the body after which the connection is cut."""

    status: int = 200
    drop_after: int | None = None
    ignore_range: bool = False
    body: bytes | None = None
    extra_length: int = 0
    hang: bool = False
    no_length: bool = False
    chunked: bool = False
    range_shift: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Site:
    """`files`: path → body; `etags`: path → ETag. The next requests take their behaviours from `script`."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    script: list[Behaviour] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # path, Range, If-Range
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving() -> Iterator[Site]:
    """A running server."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, site)

        def log_message(self, format: str, *arguments: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, site: Site) -> None:
    wanted, condition = request.headers.get("Range", ""), request.headers.get("If-Range", "")
    site.requests.append((request.path, wanted, condition))
    how = site.script.pop(0) if site.script else Behaviour()
    request.close_connection = True
    if how.hang:
        site.released.wait(10)
        return
    if how.status != 200 or request.path not in site.files:
        request.send_response(how.status if how.status != 200 else 404)
        for name, value in how.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    whole = site.files[request.path] if how.body is None else how.body
    etag = site.etags.get(request.path, "")
    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0  # type: ignore[index]
    partial = bool(wanted) and not how.ignore_range and (not condition or condition == etag)
    if partial and start >= len(whole):
        request.send_response(416)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    first = start + how.range_shift
    body = whole[first:] if partial else whole
    request.send_response(206 if partial else 200)
    if partial:
        request.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
    if etag:
        request.send_header("ETag", etag)
    if how.chunked:
        request.send_header("Transfer-Encoding", "chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif not how.no_length:
        request.send_header("Content-Length", str(len(body) + how.extra_length))
    for name, value in how.headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body if how.drop_after is None else body[: how.drop_after])


def fetched(dataset: NamedDataset, home: Path, retry: RetryPolicy, shards: int = 0) -> DownloadResult:
    """A dataset, downloaded."""
    return result_of(download(dataset, home, shards=shards, retry=retry))


BODY = random.Random(3).randbytes(700_001)
"""The file that most tests fetch, at `/text.txt`."""

SHA256 = hashlib.sha256(BODY).hexdigest()


def text_set(site: Site, sha256: str = SHA256, size: int = len(BODY)) -> NamedDataset:
    """A data set of that one file."""
    return NamedDataset(
        "plays", "a test", (RemoteFile("text.txt", site.url + "/text.txt", size, sha256),), train="text.txt"
    )


def content(home: Path) -> bytes:
    """What has arrived of it."""
    return (home / "datasets" / "plays" / "text.txt").read_bytes()
