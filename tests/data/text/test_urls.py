"""Text from a web address: what an address may be, fetching it, learning from it, and listing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm.config import RunConfig, with_overrides
from llm.data.text.corpora import open_corpus
from llm.data.text.datasets import RECORD, dataset_folder, downloaded_urls, find_dataset, resolve_names
from llm.data.text.download import download
from llm.data.text.fetch import RetryPolicy
from llm.data.text.parquet import RowGroups
from llm.data.text.urls import is_url, normalize_url
from llm.data.tokens.sources import open_source
from llm.errors import UserError, WrongUse
from llm.run.directory import with_absolute_paths
from tests.data.text.http_for_tests import Behaviour, Site, fetched
from workbench.cli import main

TEXT = "To be, or not to be: that is the question.\n" * 4000


@pytest.fixture
def address(site: Site) -> str:
    """Of a text file with a name outside ASCII."""
    site.files["/%E8%8E%8E%E7%BF%81/hamlet.txt?part=1"] = TEXT.encode()
    site.etags["/%E8%8E%8E%E7%BF%81/hamlet.txt?part=1"] = '"one"'
    return f"{site.url}/莎翁/hamlet.txt?part=1#act-3"


def configured(**fields: str) -> RunConfig:
    return with_overrides(RunConfig(), [(f"data.{name}", text) for name, text in fields.items()])


@pytest.mark.parametrize(
    ("given", "asked_for", "file"),
    [
        ("https://example.org/a/Text%20one.txt", "https://example.org/a/Text%20one.txt", "Text_one.txt"),
        ("HTTP://Example.ORG:8080/x.jsonl?q=é#there", "http://example.org:8080/x.jsonl?q=%C3%A9", "x.jsonl"),
        (
            "https://bücher.example/故事.parquet",
            "https://xn--bcher-kva.example/%E6%95%85%E4%BA%8B.parquet",
            "故事.parquet",
        ),
        ("https://example.org", "https://example.org/", "text"),
        ("https://example.org/.hidden", "https://example.org/.hidden", "hidden"),
        ("https://example.org/a/..%2F..%2Fetc%2Fpasswd", "https://example.org/a/..%2F..%2Fetc%2Fpasswd", "passwd"),
        (f"https://example.org/{'x' * 300}.txt", f"https://example.org/{'x' * 300}.txt", "x" * 40 + ".txt"),
    ],
)
def test_an_address_is_asked_for_and_kept_under_a_plain_name(given: str, asked_for: str, file: str) -> None:
    dataset = find_dataset(given)
    assert [(found.url, found.name) for found in dataset.files] == [(asked_for, file)]
    assert dataset.name.startswith(file.rpartition(".")[0] or file)


def test_two_files_of_one_name_stay_apart() -> None:
    names = {find_dataset(f"https://example.org/{place}/text.txt").name for place in ("a", "b")}
    assert len(names) == 2


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd",
        "ftp://example.org/text.txt",
        "https://",
        "https://someone:secret@example.org/text.txt",
        "https://example.org:port/text.txt",
        "https://[::1/text.txt",
        "https://" + "x" * 64 + ".org/",
    ],
)
def test_what_is_no_address_of_text_is_refused(text: str) -> None:
    with pytest.raises(WrongUse, match="give"):
        normalize_url(text)


def test_paths_and_names_are_no_addresses() -> None:
    assert not any(map(is_url, ("stories", "a/b.txt", "C:/text", "://x", "texts//a.txt", "~/x")))


def test_it_is_fetched_over_dropped_connections_and_learned_from(
    site: Site, address: str, home: Path, retry: RetryPolicy
) -> None:
    site.script = [Behaviour(drop_after=100_000), Behaviour(drop_after=20_000)]
    fetched(find_dataset(address), home, retry)
    assert [request[1] for request in site.requests] == ["", "bytes=100000-", "bytes=120000-"]
    source = open_source(configured(corpus=address), home)
    assert "".join(source.texts(0, with_validation=True)) == TEXT
    as_validation = resolve_names(configured(corpus="pylib", validation=address).data, home)
    assert "".join(next(open_corpus(configured(corpus=as_validation.validation).data, home).documents()).pieces) == TEXT


def test_parquet_from_an_address_is_streamed(site: Site, home: Path, tmp_path: Path, retry: RetryPolicy) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    parquet.write_table(arrow.table({"text": [f"row {n}" for n in range(40)]}), path, row_group_size=10)
    site.files["/p.parquet"] = path.read_bytes()
    fetched(find_dataset(site.url + "/p.parquet"), home, retry)
    source = open_source(configured(corpus=site.url + "/p.parquet", order="stream"), home)
    assert isinstance(source.stream, RowGroups)


def test_it_is_not_fetched_unasked_and_the_message_can_be_typed(site: Site, address: str, home: Path) -> None:
    with pytest.raises(UserError, match=r"is not downloaded; run: llm-workbench data download 'http.*act-3' \(or"):
        open_source(configured(corpus=address), home)
    assert site.requests == []


def test_a_run_remembers_the_address() -> None:
    config = configured(corpus="https://example.org/a.txt", validation="b.txt")
    data = with_absolute_paths(config).data
    assert (data.corpus, data.validation) == ("https://example.org/a.txt", str(Path("b.txt").absolute()))


def test_without_a_length_no_share_is_made_up(site: Site, address: str, home: Path, retry: RetryPolicy) -> None:
    site.script = [Behaviour(no_length=True)]
    events = list(download(find_dataset(address), home, retry=retry))
    coming = [event for event in events if event.stage.startswith("Downloading")]
    assert {event.total for event in coming} == {0}
    assert coming[-1].done > 0


def test_an_address_that_changed_is_reported_and_can_be_taken(
    site: Site, address: str, home: Path, retry: RetryPolicy
) -> None:
    dataset = find_dataset(address)
    fetched(dataset, home, retry)
    folder = dataset_folder(dataset, home)
    (folder / "hamlet.txt").unlink()
    site.files["/%E8%8E%8E%E7%BF%81/hamlet.txt?part=1"] = b"Words, words, words.\n"
    with pytest.raises(UserError, match=f"delete {folder} to accept the current file"):
        fetched(dataset, home, retry)
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    fetched(dataset, home, retry)
    assert (folder / "hamlet.txt").read_bytes() == b"Words, words, words.\n"


def test_the_command_line_fetches_and_lists_it(
    site: Site, address: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "download", address, "--home", str(home)]) == 0
    told = capsys.readouterr()
    assert f"use it with  --data.corpus '{address}'" in told.out
    assert main(["data", "--home", str(home), "--json"]) == 0
    records = [record for record in json.loads(capsys.readouterr().out) if record["kind"] == "address"]
    assert [(record["name"], record["bytes"]) for record in records] == [(normalize_url(address), len(TEXT))]
    assert main(["data", "shakespeare-char", "--data.corpus", address, "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == len(TEXT)


def test_a_web_page_in_the_place_of_a_text_is_reported(
    site: Site, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "<!DOCTYPE html>\n<html><body>\n" + "<p>To be, or not to be.</p>\n" * 400
    site.files["/hamlet"] = page.encode()
    assert main(["data", "download", site.url + "/hamlet", "--home", str(home)]) == 0
    capsys.readouterr()
    fields = ["--data.corpus", site.url + "/hamlet", "--tokenizer.kind", "byte"]
    assert main(["data", "shakespeare-char", *fields, "--home", str(home)]) == 0
    assert "hamlet is a web page: the model is trained on its markup" in capsys.readouterr().err


def test_a_damaged_record_is_not_listed(site: Site, address: str, home: Path, retry: RetryPolicy) -> None:
    folder = fetched(find_dataset(address), home, retry).here.folder
    assert [url for url, _ in downloaded_urls(home)] == [normalize_url(address)]
    (folder / RECORD).write_text("[]")
    assert list(downloaded_urls(home)) == []


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["https://example.org/a.txt"], "data download NAME|URL"),
        (["download", "ftp://example.org/a.txt"], "cannot be downloaded"),
        (["download", "https://example.org/a.txt", "--shards", "2"], "has no shards"),
    ],
)
def test_wrong_use(words: list[str], fault: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *words, "--home", str(home)]) == 2
    assert fault in capsys.readouterr().err
