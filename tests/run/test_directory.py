"""Creating a run: whole or not at all, and independent of where its creator stood."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm.run.directory
from llm.config import RunConfig, with_overrides
from llm.errors import UserError
from llm.run import Run, list_runs


def test_relative_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "stories").mkdir()
    monkeypatch.chdir(tmp_path)
    given = {"mine.txt": True, "folder": True, "*.txt": True, "gone/x.txt": True, "stories": False, "pylib": False}
    for number, (text, is_path) in enumerate(given.items()):
        config = with_overrides(RunConfig(), [("data.corpus", text), ("data.validation", text)])
        data = Run.create(tmp_path, f"run-{number}", config).config().data
        wanted = str(tmp_path / text) if is_path else text
        assert (data.corpus, data.validation) == (wanted, wanted)
    assert Run(tmp_path / "runs" / "run-0").config().tokenizer.path == ""


def test_a_run_that_cannot_be_described_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(llm.run.directory, "write_atomic", full)
        with pytest.raises(OSError, match="No space left"):
            Run.create(tmp_path, "again", RunConfig())
    assert list_runs(tmp_path) == []
    assert Run.create(tmp_path, "again", RunConfig()).name == "again"


def test_a_lock_that_cannot_be_written_is_refused_and_not_kept(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "locked", RunConfig())
    (run.path / "lock").mkdir()
    with pytest.raises(UserError, match="lock is a folder"), run.lock():
        pass
    (run.path / "lock").rmdir()
    with run.lock():
        pass


def test_notes_can_be_changed_where_meta_json_holds_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "noted", RunConfig())
    (run.path / "meta.json").write_text('{"tags": ["a"], "of a newer version": [NaN, 1e999]}')
    run.update_meta(notes="mine")
    assert run.meta() == {"pins": [], "tags": ["a"], "notes": "mine", "of a newer version": ["NaN", "Infinity"]}
