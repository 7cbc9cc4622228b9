"""Datasets of the hub, without a network: the library is replaced by one that saves made-up rows, or fails."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llm.config.schema import DataConfig
from llm.data.text.corpora import open_corpus
from llm.data.text.datasets import resolve_names
from llm.data.text.hub import download_hub_dataset
from llm.data.text.text_files import MissingText
from llm.errors import UserError, WrongUse
from llm.run import Run
from tests.conftest import tiny_config
from tests.data.text.test_arrow import write_arrow
from workbench import cli


class Rows:
    def save_to_disk(self, path: str) -> None:
        write_arrow(Path(path) / "data-00000-of-00001.arrow", ["from the hub"])
        (Path(path) / "state.json").write_text("{}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the library was asked for."""
    calls: list[Any] = []
    library = ModuleType("datasets")

    def load_dataset(*names: str, split: str) -> Rows:
        calls.append((*names, split))
        if "offline" in names[0]:
            raise ConnectionError("Couldn't reach the Hub\nmore")
        return Rows()

    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    return calls


def test_a_data_set_is_downloaded_once_and_trained_on(
    home: Path, asked: list[Any], capsys: pytest.CaptureFixture[str], corpus: Path
) -> None:
    name = "hf:owner/tales:small"
    with pytest.raises(MissingText, match=r"data download hf:owner/tales:small"):
        resolve_names(DataConfig(corpus=name), home)
    for _ in range(2):
        assert cli.main(["--home", str(home), "data", "download", name]) == 0
        assert f"--data.corpus {name}" in capsys.readouterr().out
    assert asked == [("owner/tales", "small", "train")]
    data = resolve_names(DataConfig(corpus=name), home)
    assert ["".join(document.pieces) for document in open_corpus(data, home).documents()] == ["from the hub"]
    run = Run.create(home, "a-run", replace(tiny_config(corpus), data=DataConfig(corpus=name)))
    assert run.config().data.corpus == name


def test_no_network_and_no_such_name_are_sentences(home: Path, asked: list[Any]) -> None:
    with pytest.raises(UserError, match=r"downloaded \(Couldn't reach the Hub\); check the name and the network"):
        download_hub_dataset("hf:owner/offline", home)
    with pytest.raises(WrongUse, match="names no dataset"):
        download_hub_dataset("hf:../../etc", home)
    assert not (home / "datasets").exists() or not list((home / "datasets").iterdir())


def test_the_missing_package_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WrongUse, match=r"llm-workbench\[datasets\]"):
        download_hub_dataset("hf:owner/tales", home)
