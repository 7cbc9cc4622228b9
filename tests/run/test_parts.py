"""A run directory from somebody else: what is no file or folder of its own is refused; nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm.config import RunConfig
from llm.errors import UserError
from llm.run import Run
from llm.run.lock import holder_of
from llm.run.log import LineAppender
from llm.run.parts import FILES, FOLDERS
from workbench.runs.catalog import RunCatalog


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_with_parts(tmp_path, "theirs")


def run_with_parts(home: Path, name: str) -> Run:
    """A run with all its parts."""
    run = Run.create(home, name, RunConfig())
    for name in FILES:
        (run.path / name).touch()
    for name in FOLDERS:
        (run.path / name).mkdir()
    (run.checkpoint_directory / "step-00000001").mkdir()
    (run.checkpoint_directory / "step-00000001" / "state.json").write_text("{}")
    return run


PLACES = (*FILES, *FOLDERS, "checkpoints/step-00000001", "checkpoints/step-00000001/state.json")


@pytest.mark.parametrize("place", PLACES)
def test_a_part_that_is_a_link_is_refused_by_name(run: Run, tmp_path: Path, place: str) -> None:
    path, outside = run.path / place, tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(UserError, match="is a link"), run.lock():
        pass
    with pytest.raises(UserError, match=f"{place} is a link"):
        Run.open(tmp_path, "theirs")
    (row,) = RunCatalog(tmp_path).refresh()
    assert row.status == "unreadable" and "is a link" in row.reason
    assert outside.is_dir() or outside.read_bytes() in (b"", b"{}") or place == "run.toml"


@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_a_run_toml_of_another_kind_is_named(run: Run, tmp_path: Path, kind: str) -> None:
    path = run.path / "run.toml"
    path.unlink()
    os.mkfifo(path) if kind == "FIFO" else path.mkdir()
    with pytest.raises(UserError, match=rf"run\.toml is a {kind}, but must be a file"):
        Run.open(tmp_path, "theirs")


def test_a_run_that_has_lost_its_run_toml_is_named(run: Run, tmp_path: Path) -> None:
    (run.path / "run.toml").unlink()
    with pytest.raises(UserError, match=r"theirs has lost its run\.toml"):
        Run.open(tmp_path, "theirs")


def test_a_link_that_appears_later_is_neither_locked_nor_appended_to(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    for name in ("lock", "events.jsonl", "commands.jsonl"):
        (run.path / name).unlink()
        (run.path / name).symlink_to(outside)
    for name in ("events.jsonl", "commands.jsonl"):
        with pytest.raises(OSError):
            LineAppender(run.path / name)
    assert run.holder() is None
    with pytest.raises(UserError), run.lock():
        pass
    assert outside.read_text() == "precious"


def test_a_lock_file_that_is_replaced_while_it_is_held_is_not_followed(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    lock_file = run.path / "lock"
    with run.lock() as lock:
        lock_file.unlink()
        lock_file.symlink_to(outside)
        with pytest.raises(OSError):
            lock.renew()
        lock_file.unlink()
        os.mkfifo(lock_file)
        assert holder_of(lock_file) is not None, "the folder is still locked; a FIFO keeps nobody waiting"
    assert outside.read_text() == "precious"


def test_a_fifo_in_any_place_keeps_no_listing_waiting(tmp_path: Path) -> None:
    for number, place in enumerate(PLACES):
        path = run_with_parts(tmp_path, f"run-{number:02}").path / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.mkfifo(path)
    command = [sys.executable, "-m", "workbench.cli", "runs", "--json", "--home", str(tmp_path)]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)
    by_name = {run["name"]: run for run in listed}
    assert len(by_name) == len(PLACES)
    for number, place in enumerate(PLACES):
        run = by_name[f"run-{number:02}"]
        assert run["status"] == "unreadable" and ("is a FIFO" in run["problem"] or place == "run.toml"), place
    assert {row.status for row in RunCatalog(tmp_path).refresh()} == {"unreadable"}


def test_a_run_that_is_a_link_itself_is_a_run(run: Run, tmp_path: Path) -> None:
    run.path.rename(tmp_path / "large-disk")
    run.path.symlink_to(tmp_path / "large-disk")
    assert Run.open(tmp_path, "theirs").holder() is None
