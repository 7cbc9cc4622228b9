"""Which files a folder or a glob means: links are followed, loops are not, and what is left out is listed."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from llm.config.schema import DataConfig
from llm.data.text.corpora import open_corpus
from llm.data.text.find_files import SkippedFile, describe_skipped, find_files, search_files


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "b.txt")
    write(root / "sub" / "c.txt")
    write(tmp_path / "elsewhere" / "deep" / "d.txt")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "inside").symlink_to(root / "sub")
    found, skipped = search_files(str(root))
    assert names(found, root) == ["b.txt", "again/d.txt", "linked/deep/d.txt", "sub/c.txt"]
    assert [(item.path.name, item.reason) for item in skipped] == [("inside", "a link to a folder that is read anyway")]


@pytest.mark.parametrize("pattern", ["", "**/*.txt"])
def test_links_in_a_circle_end(tmp_path: Path, pattern: str) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    write(root / "a.txt")
    write(other / "b.txt")
    (root / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "other").symlink_to(other)
    (other / "back").symlink_to(root)
    found = find_files(str(root / pattern))
    assert names(found, root) == ["a.txt", "other/b.txt"]


def test_a_glob_follows_links_as_a_folder_does(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "deep" / "d.txt")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    assert find_files(str(tmp_path / "root")) == find_files(str(tmp_path / "root" / "**" / "*.txt"))


def test_what_is_skipped_is_listed_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / ".hidden")
    write(tmp_path / ".git" / "config")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for number in range(7):
        (tmp_path / f"{number}.bin.dat").write_bytes(b"\0\1")
    (tmp_path / "inside.gz").write_bytes(gzip.compress(b"\0\1"))
    corpus = open_corpus(DataConfig(corpus=str(tmp_path)), tmp_path)
    assert [path.name for path in find_files(str(tmp_path))] == ["a.txt"]
    notes = corpus.warnings()
    assert [note.partition(": ")[0] for note in notes] == [
        "2 files or folders skipped (hidden)",
        "8 files or folders skipped (it holds NUL bytes)",
        "1 file or folder skipped (a broken link)",
        "1 file or folder skipped (not a regular file)",
    ]
    assert "4.bin.dat, …" in notes[1]
    assert describe_skipped([SkippedFile(Path("x"), "hidden")]) == ["1 file or folder skipped (hidden): x."]


def test_the_order_of_a_glob_is_that_of_the_names_as_text(tmp_path: Path) -> None:
    for name in ("a/x.txt", "a-b/x.txt", "a/b/y.txt", "z.txt", ".hidden/h.txt"):
        write(tmp_path / name)
    for pattern in ("**/*.txt", "**"):
        assert names(find_files(str(tmp_path / pattern)), tmp_path) == ["a-b/x.txt", "a/b/y.txt", "a/x.txt", "z.txt"]
