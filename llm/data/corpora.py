"""Where text comes from: two corpora that need no download, and a person's own files."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from llm.config.schema import DataConfig
from llm.data import stories
from llm.data.textfiles import Document, FileHashes, document, find_files, format_of, is_web_page, read_documents, walk
from llm.errors import UserError

Advance = Callable[[int], None]
KEPT_BYTES = 32 << 20
PYLIB_SUFFIXES = (".py", ".txt", ".rst")
NOT_PYLIB = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


class Corpus(Protocol):
    """Documents that can be read again and again, always the same."""

    @property
    def name(self) -> str:
        """As a person would call it."""

    @property
    def size_bytes(self) -> int:
        """Bytes of text, about."""

    def documents(self) -> Iterator[Document]:
        """Every document, in a fixed order, in bounded memory."""

    def fingerprint(self, advance: Advance = ...) -> str:
        """Hexadecimal digest of what decides the text. `advance` is told of bytes read to find it."""

    def warnings(self) -> list[str]:
        """What was found amiss, a sentence each, in the documents read so far."""


def open_corpus(data: DataConfig, home: Path, separator: str = "") -> Corpus:
    """The corpus `data.corpus` names. `separator` is the text at which text files are split into documents.

    Raises UserError where there is no such file, or nothing in it.
    """
    if data.corpus == "stories":
        return StoriesCorpus(data.seed, round(data.size_mb * 1e6))
    if data.corpus == "pylib":
        return PylibCorpus(round(data.size_mb * 1e6))
    return FileCorpus(data.corpus, data.text_field, separator, FileHashes(home / "data" / "files.json"), data.format)


class StoriesCorpus:
    """Generated stories; kept in memory where they are few, since each is read two or three times."""

    name = "stories"

    def __init__(self, seed: int, size_bytes: int) -> None:
        self.seed, self.size_bytes = seed, size_bytes
        self._kept: list[str] = []
        self._coming = stories.stories(seed, size_bytes)

    def documents(self) -> Iterator[Document]:
        texts = self._kept_texts() if self.size_bytes <= KEPT_BYTES else stories.stories(self.seed, self.size_bytes)
        for number, text in enumerate(texts, 1):
            yield Document(f"story {number}", len(text), (text,))  # ASCII: as many bytes as characters

    def _kept_texts(self) -> Iterator[str]:
        for number in itertools.count():
            if number == len(self._kept):
                self._kept.extend(itertools.islice(self._coming, 1))
            if number == len(self._kept):
                return
            yield self._kept[number]

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        return digest("stories", stories.fingerprint(), str(self.seed), str(self.size_bytes))

    def warnings(self) -> list[str]:
        return []


class PylibCorpus:
    """The standard library of the running Python: its source, docstrings and plain-text files, tests left out.

    Files come in the order of the hashes of their names, so that any amount is a fair sample of the whole.
    """

    name = "pylib"

    def __init__(self, size_bytes: int) -> None:
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [Path(folder, name) for folder, _, names in walk(root, NOT_PYLIB) for name in names]
        found = [path for path in found if path.suffix in PYLIB_SUFFIXES and path.is_file()]
        self.root = root
        self.paths: list[Path] = []
        self.size_bytes = 0
        for path in sorted(found, key=lambda path: digest(path.relative_to(root).as_posix())):
            size = path.stat().st_size
            if size and (self.size_bytes + size <= size_bytes or not self.paths):
                self.paths.append(path)
                self.size_bytes += size
        if not self.paths:
            raise UserError(f"This Python ({sys.executable}) has no readable library; set data.corpus to stories.")

    def documents(self) -> Iterator[Document]:
        for path in self.paths:
            try:
                text = path.read_bytes().decode()
            except UnicodeDecodeError:
                continue
            yield from filter(None, [document(path.relative_to(self.root).as_posix(), text)])

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        return digest("pylib", *(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths))

    def warnings(self) -> list[str]:
        return []


class FileCorpus:
    """A text file, a folder, a glob, files of JSON or Parquet."""

    def __init__(self, pattern: str, text_field: str, separator: str, hashes: FileHashes, format: str = "auto") -> None:
        self.name, self.text_field, self.separator, self.hashes = pattern, text_field, separator, hashes
        self.format = format
        self.paths = find_files(pattern)
        if not self.paths:
            exists = os.access(Path(pattern).expanduser(), os.R_OK)
            raise UserError(
                f"{pattern} holds no text files; give another folder or file in data.corpus."
                if exists
                else f"There is no corpus {pattern}: it is neither stories nor pylib, and no file or folder has that "
                "name; check data.corpus."
            )
        self.size_bytes = sum(path.stat().st_size for path in self.paths)
        if not self.size_bytes:
            raise UserError(f"The corpus {pattern} is empty; give a file with text in it.")
        self._replaced: dict[Path, int] = {}

    def documents(self) -> Iterator[Document]:
        for path in self.paths:
            yield from read_documents(path, self.text_field, self.separator, self._replaced.__setitem__, self.format)

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        parts = (part for path in self.paths for part in (self._kind(path), self.hashes.of(path, advance)))
        return digest("files", self.text_field, self.separator, *parts)

    def _kind(self, path: Path) -> str:
        if self.format != "auto":
            return self.format
        return "list" if format_of(path, "auto") == "jsonl" and path.suffix == ".json" else path.suffix

    def warnings(self) -> list[str]:
        found = [
            f"{path}: {count:,} bytes that are not UTF-8 were read as U+FFFD."
            for path, count in self._replaced.items()
            if count
        ]
        if len(self.paths) == 1 and is_web_page(self.paths[0]):
            found.append(f"{self.paths[0]} is a web page: its markup is learnt like the rest; look for a plain text.")
        return found


def digest(*parts: str) -> str:
    """sha256 of the parts, each set off from the next."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
