"""Checkpoints as files: only what is committed counts, and damage is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm.errors import UserError
from llm.files import ASIDE, STAGING, published_directory, remove_staging, write_atomic
from llm.run.checkpoints import list_checkpoints, prune, verify, write_manifest


def publish(directory: Path, step: int, **metrics: float) -> Path:
    target = directory / f"step-{step:08d}"
    with published_directory(target) as staging:
        (staging / "model.safetensors").write_bytes(bytes(range(100)))
        (staging / "state.json").write_text("{}")
        write_manifest(staging, step, metrics)
    return target


def test_best_last_and_pinned_are_marked(tmp_path: Path) -> None:
    for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0)):
        publish(tmp_path, step, validation_loss=loss)
    infos = list_checkpoints(tmp_path, pins=[10])
    assert [(info.step, info.best, info.last, info.pinned) for info in infos] == [
        (10, False, False, True),
        (20, True, False, False),
        (30, False, True, False),
    ]
    assert infos[0].size_bytes == 102


def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path) -> None:
    target = publish(tmp_path, 10)
    (target / "manifest.json").unlink()
    publish(tmp_path, 20)
    (tmp_path / "step-00000030").mkdir()
    assert [info.step for info in list_checkpoints(tmp_path)] == [20]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing"])
def test_damage_is_found_and_the_file_named(tmp_path: Path, harm: str) -> None:
    target = publish(tmp_path, 10)
    path = target / "model.safetensors"
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[50] ^= 1
        path.write_bytes(data)
    elif harm == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:50] if harm == "cut" else b"")
    (info,) = list_checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        verify(info)


def test_pruning_keeps_the_newest_the_best_and_the_pinned(tmp_path: Path) -> None:
    for step in range(1, 8):
        publish(tmp_path, step, validation_loss=abs(step - 2))
    prune(tmp_path, keep=2, pins=[4])
    assert [info.step for info in list_checkpoints(tmp_path)] == [2, 4, 6, 7]
    prune(tmp_path, keep=0, pins=[])
    assert len(list_checkpoints(tmp_path)) == 4


def test_an_error_while_staging_leaves_nothing_and_the_old_one_stands(tmp_path: Path) -> None:
    publish(tmp_path, 10)
    with pytest.raises(OSError, match="disk"), published_directory(tmp_path / "step-00000010") as staging:
        (staging / "model.safetensors").write_bytes(b"new")
        raise OSError("disk full")
    (info,) = list_checkpoints(tmp_path)
    verify(info)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010"]


def test_publishing_again_replaces_the_whole(tmp_path: Path) -> None:
    publish(tmp_path, 10, loss=1.0)
    publish(tmp_path, 10, loss=2.0)
    (info,) = list_checkpoints(tmp_path)
    verify(info)
    assert info.metrics == {"loss": 2.0}


def test_leftovers_of_dead_writers_are_cleared_and_live_ones_kept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"{STAGING}{dead.pid}-ab12-step-00000001").mkdir()
    (tmp_path / f"{STAGING}{dead.pid}-ab12-meta.json").write_text("{}")
    live = tmp_path / f"{STAGING}{os.getppid()}-ab12-step-00000002"
    live.mkdir()
    own = tmp_path / f"{STAGING}{os.getpid()}-ab12-meta.json"
    own.write_text("{}")
    recycled = tmp_path / f"{STAGING}{os.getpid()}-cd34-meta.json"
    recycled.write_text("{}")
    os.utime(recycled, (0, 0))  # left by a process that had this one's number, long before
    remove_staging(tmp_path)
    assert set(tmp_path.iterdir()) == {live, own}


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meta.json"
    write_atomic(path, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """A kill between the two renames of a replacement: the old one is aside, the new one not yet in its place."""
    target = publish(tmp_path, 10, loss=1.0)
    target.rename(tmp_path / (ASIDE + target.name))
    assert list_checkpoints(tmp_path) == []
    remove_staging(tmp_path)
    (info,) = list_checkpoints(tmp_path)
    verify(info)
    publish(tmp_path, 10, loss=2.0)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_an_interrupt_between_the_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, 10, loss=1.0)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.startswith(STAGING):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, 10, loss=2.0)
    (info,) = list_checkpoints(tmp_path)
    verify(info)
    assert info.metrics == {"loss": 1.0} and len(list(tmp_path.iterdir())) == 1
