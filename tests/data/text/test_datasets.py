"""Datasets by name: in a configuration and on the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from llm.config import RunConfig, with_overrides
from llm.data.text import datasets
from llm.data.text.datasets import CATALOG, RECORD, NamedDataset, RemoteFile, resolve_names
from llm.data.text.fetch import RetryPolicy
from llm.data.tokens.sources import TextSource, open_source
from llm.errors import UserError
from tests.data.text.http_for_tests import Site, fetched
from workbench.cli import main


@pytest.fixture
def plays(site: Site, monkeypatch: pytest.MonkeyPatch) -> NamedDataset:
    site.files["/text.txt"] = b"To be, or not to be.\n" * 40
    dataset = NamedDataset(
        "plays",
        "some plays",
        (RemoteFile("text.txt", site.url + "/text.txt", 840), RemoteFile("v.txt", site.url + "/text.txt", 840)),
        train="text.txt",
        validation="v.txt",
    )
    monkeypatch.setattr(datasets, "CATALOG", (dataset, *CATALOG))
    return dataset


def configured(**fields: str) -> RunConfig:
    return with_overrides(RunConfig(), [(f"data.{name}", text) for name, text in fields.items()])


def test_a_name_means_the_copy_that_is_here(plays: NamedDataset, home: Path, retry: RetryPolicy) -> None:
    fetched(plays, home, retry)
    source = open_source(configured(corpus="plays"), home)
    assert "To be" in "".join(source.texts(0, with_validation=True))
    data = resolve_names(configured(corpus="plays", validation="plays").data, home)
    assert (data.corpus, data.validation) == (
        str(home / "datasets" / "plays" / "text.txt"),
        str(home / "datasets" / "plays" / "v.txt"),
    )


def test_a_data_set_brings_its_own_validation_text(
    plays: NamedDataset, site: Site, home: Path, retry: RetryPolicy
) -> None:
    site.files["/held-out.txt"] = b"Whether 'tis nobler.\n" * 10
    own = RemoteFile("v.txt", site.url + "/held-out.txt", 210)
    plays = dataclasses.replace(plays, files=(plays.files[0], own))
    fetched(plays, home, retry)

    def found(**fields: str) -> tuple[str, str, str]:
        source = open_source(configured(**fields), home)
        assert isinstance(source, TextSource)
        train, held_out = (
            "".join(piece for unit in source.units(840) if unit.is_validation == side for piece in unit.pieces)
            for side in (False, True)
        )
        return train, held_out, source.fingerprint()

    train, held_out, fingerprint = found(corpus="plays")
    assert (train, held_out) == ("To be, or not to be.\n" * 40, "Whether 'tis nobler.\n" * 10)
    assert found(corpus="plays", validation="plays") == (train, held_out, fingerprint)
    here = home / "datasets" / "plays"
    assert found(corpus=str(here / "text.txt"))[2] != fingerprint, "of a file by its path a share is held out"
    (home / "mine.txt").write_text("Mine.")
    assert found(corpus="plays", validation=str(home / "mine.txt"))[1] == "Mine."
    (here / "v.txt").write_bytes(b"Whether 'tis NOBLER.\n" * 10)
    assert found(corpus="plays")[2] != fingerprint


def test_nothing_is_downloaded_unasked(plays: NamedDataset, site: Site, home: Path) -> None:
    with pytest.raises(UserError, match=r"run: llm-workbench data download plays .*stories, pylib, or a local file"):
        open_source(configured(corpus="plays"), home)
    assert site.requests == []


def test_a_file_that_is_lost_or_cut_makes_it_not_here(plays: NamedDataset, home: Path, retry: RetryPolicy) -> None:
    here = fetched(plays, home, retry).here
    (here.folder / "text.txt").write_bytes(b"To be")
    with pytest.raises(UserError, match="data download plays"):
        open_source(configured(corpus="plays"), home)


def test_validation_text_that_there_is_not(home: Path) -> None:
    with pytest.raises(UserError, match=r"no validation text; leave data.validation empty"):
        resolve_names(configured(validation="tinyshakespeare").data, home)


def test_other_names_stay_as_they_are(home: Path) -> None:
    data = configured(corpus="pylib", validation="some/path").data
    assert resolve_names(data, home) == data


def test_data_download(plays: NamedDataset, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "download", "plays", "--home", str(home)]) == 0
    told = capsys.readouterr()
    assert "--data.corpus plays" in told.out
    assert told.err.count(" is published; its sha256, ") == 2
    assert main(["data", "download", "plays", "--home", str(home), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["name"], record["bytes"], len(record["files"])) == ("plays", 1680, 2)


def test_data_lists_what_is_here_and_what_is_not(
    plays: NamedDataset, home: Path, retry: RetryPolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched(plays, home, retry)
    assert main(["data", "--home", str(home), "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert {"stories", "pylib", "tinyshakespeare", "tinystories", "fineweb-edu", "core"} <= set(records)
    assert (records["plays"]["here"], records["plays"]["bytes"]) == (True, 1680)
    assert records["tinystories"]["here"] is False
    assert "data download tinystories gets 2.25 GB" in records["tinystories"]["about"]
    (home / "datasets" / "plays" / RECORD).write_text("[]")
    assert main(["data", "--home", str(home)]) == 0
    assert "is damaged; delete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["download"], "needs a URL or the name of a dataset"),
        (["download", "tinystory"], "did you mean tinystories"),
        (["download", "fineweb-edu", "--shards", "0"], "1 or more"),
        (["download", "tinyshakespeare", "--shards", "2"], "has no shards"),
        (["download", "core", "--train.lr", "1"], "takes no configuration fields"),
        (["quickstart", "core"], "data download NAME"),
        (["--shards", "2"], "data download NAME"),
    ],
)
def test_wrong_use(words: list[str], fault: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *words, "--home", str(home)]) == 2
    assert fault in capsys.readouterr().err


def test_the_catalogue_is_sound() -> None:
    names = [dataset.name for dataset in CATALOG]
    assert len(set(names)) == len(names)
    for dataset in CATALOG:
        assert all(file.url.startswith("https://") for file in dataset.files)
        assert all(len(file.sha256) in (0, 64) for file in dataset.files)
        assert len({file.name for file in dataset.files}) == len(dataset.files)
    unknown = {dataset.name for dataset in CATALOG if dataset.caution}
    assert unknown == {"fineweb-edu", "core"}, "README.md names those whose checksum is not known"
    assert CATALOG[names.index("fineweb-edu")].files[1822].url.endswith("shard_01822.parquet")
