"""Datasets of the hub, without a network: the library takes a local folder of the same name for one of the hub."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llm.config.schema import DataConfig
from llm.data.text.corpora import open_corpus
from llm.data.text.datasets import resolve_names
from llm.data.text.hub import download_hub_dataset
from llm.data.text.text_files import MissingText
from llm.errors import UserError, WrongUse
from tests.conftest import TINY
from tests.interop.runs_for_tests import finish
from workbench import cli

NAME = "hf:owner/tales"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the dataset owner/tales, in which the library looks first. It can reach nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "owner" / "tales"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(f'{{"text": "Tale {n}: a cat sat on mat {n}."}}\n' for n in range(300)))
    return tmp_path


def test_training_downloads_what_is_named(home: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingText, match=r"data download hf:owner/tales"):
        resolve_names(DataConfig(corpus=NAME), home)
    (hub / "tiny.toml").write_text(TINY)
    command = ["--home", str(home), "train", "tiny.toml", "--name", "taught", "--data.corpus", NAME]
    assert cli.main([*command, "--train.steps", "2"]) == 0
    assert f"Downloading {NAME}" in capsys.readouterr().err
    data = resolve_names(DataConfig(corpus=NAME), home)
    first, *rest = ["".join(document.pieces) for document in open_corpus(data, home).documents()]
    assert (first, len(rest)) == ("Tale 0: a cat sat on mat 0.", 299)
    (hub / "owner" / "tales" / "train.jsonl").unlink()
    assert cli.main(["--home", str(home), "data", "download", NAME]) == 0, "it is here"
    assert f"--data.corpus {NAME}" in capsys.readouterr().out


def test_what_cannot_be_downloaded_is_a_sentence(home: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hub / "tiny.toml").write_text(TINY)
    command = ["--home", str(home), "train", "tiny.toml", "--name", "taught", "--data.corpus", "hf:owner/offline"]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "hf:owner/offline could not be downloaded (Couldn't reach" in said
    assert "Traceback" not in said
    assert not (home / "runs" / "taught").exists()
    with pytest.raises(WrongUse, match="names no dataset"):
        finish(download_hub_dataset("hf:../../etc", home))
    assert not (home / "datasets").exists() or not list((home / "datasets").iterdir())


def test_the_missing_package_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"llm-workbench\[datasets\]"):
        finish(download_hub_dataset(NAME, home))
