"""Exporting, deleting, restoring and cleaning from the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.run import Run
from workbench import cli

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(trained_run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """shell("runs", …) -> (exit status, stdout, stderr), with the tiny run at home."""
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([*words, "--home", str(home)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_export(shell: Shell, tmp_path: Path) -> None:
    status, out, said = shell("runs", "export", "tiny-1", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, said, [row["step"] for row in rows]) == (0, "", [str(step) for step in range(21)])
    assert float(rows[20]["validation_loss"]) < float(rows[0]["validation_loss"]) and rows[0]["loss"] == ""
    target = tmp_path / "curves.csv"
    assert shell("runs", "export", "tiny-1", "--csv", "--output", str(target))[0] == 0
    assert target.read_text() == out
    assert shell("runs", "export", "tiny-1")[::2] == (
        2,
        "runs export needs a format: --csv, or --to tensorboard, wandb, trackio or csv.\n",
    )
    for place in ("missing/x.csv", "curves.csv/x.csv"):
        status, _, said = shell("runs", "export", "tiny-1", "--csv", "--output", str(tmp_path / place))
        assert status == 1 and "cannot be written" in said
    assert shell("runs", "export", "--csv")[0] == 2
    assert "did you mean export?" in shell("runs", "exprt", "tiny-1")[2]


def test_delete_restore_empty(shell: Shell, home: Path) -> None:
    assert shell("runs", "trash")[2] == "The trash is empty.\n"
    assert shell("runs", "delete", "tiny-1")[0] == 0
    assert json.loads(shell("runs", "--json")[1]) == []
    assert json.loads(shell("runs", "trash", "--json")[1])[0]["name"] == "tiny-1"
    assert shell("runs", "restore", "tiny-1")[2] == "restored tiny-1.\n"
    assert Run.open(home, "tiny-1").checkpoint().step == 20
    shell("runs", "delete", "tiny-1")
    status, _, said = shell("runs", "empty-trash")
    assert status == 2 and "deletes 1 run" in said and "--yes" in said
    assert "tiny-1" in shell("runs", "trash")[1]
    assert shell("runs", "empty-trash", "--yes")[2].startswith("freed ")
    assert not list((home / "trash").iterdir())


def test_data_clean(shell: Shell, home: Path) -> None:
    status, out, said = shell("data", "clean", "--yes")
    assert status == 0 and "tiny-1" in out and "All prepared data is in use" in said
    shutil.rmtree(home / "runs" / "tiny-1")
    status, out, said = shell("data", "clean")
    assert "no run" in out and "data clean --yes" in said and list((home / "data").glob("*/dataset.json"))
    (record,) = json.loads(shell("data", "clean", "--yes", "--json")[1])
    assert record["removed"] and record["used_by"] == []
    assert not list((home / "data").glob("*/dataset.json"))
