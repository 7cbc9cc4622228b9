"""Downloads of data sets in several files: shards, and an archive that is unpacked."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from llm.core.bundle import bundle_folder, load_bundle
from llm.data.text.datasets import NamedDataset, RemoteFile, local_copy
from llm.data.text.download import PARTIAL
from llm.data.text.fetch import RetryPolicy
from llm.errors import UserError, WrongUse
from tests.core.bundles_for_tests import write_bundle
from tests.data.text.http_for_tests import Site, fetched, text_set

pytestmark = pytest.mark.usefixtures("text")


def shard_set(site: Site, count: int = 3) -> NamedDataset:
    for number in range(count):
        site.files[f"/{number}.txt"] = f"shard {number}\n".encode() * 50
    files = tuple(RemoteFile(f"{n}.txt", f"{site.url}/{n}.txt", 400) for n in range(count))
    return NamedDataset("shards", "a test", files, train=".", sharded=True)


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
