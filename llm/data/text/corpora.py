"""Where text comes from: two corpora that need no download, and a person's own files."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

from llm.config.schema import DataConfig, RunConfig
from llm.data.text import stories
from llm.data.text.file_kinds import FileKind, kind_of, name_some
from llm.data.text.find_files import PassedOver, describe_passed_over, look_for_files, walk
from llm.data.text.parquet import read_parquet
from llm.data.text.rows import read_csv_documents, read_json_documents
from llm.data.text.text_files import (
    Document,
    FileHashes,
    MissingText,
    content_size,
    document,
    guess_encoding,
    is_web_page,
    read_text_documents,
)
from llm.errors import UserError

WELL_MIXED = ("stories", "pylib")
"""Corpora whose beginning is a fair sample: stories are independent, and the files of pylib are shuffled."""
Advance = Callable[[int], None]
KEPT_BYTES = 32 << 20
PYLIB_SUFFIXES = (".py", ".txt", ".rst")
SENTENCES_AT_MOST = 5
NAMED_READINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
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


def separator_of(config: RunConfig) -> str:
    """The text that separates documents in text files: the first special token, or ""."""
    return next(iter(config.tokenizer.special_tokens), "")


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
    """A text file, a folder, a glob, files of JSON, CSV or Parquet."""

    def __init__(self, pattern: str, text_field: str, separator: str, hashes: FileHashes, format: str = "auto") -> None:
        self.name, self.text_field, self.separator, self.hashes = pattern, text_field, separator, hashes
        self.format = format
        self.paths, self.passed_over = look_for_files(pattern)
        if not self.paths:
            raise no_files(pattern, self.passed_over)
        if not any(path.stat().st_size for path in self.paths):
            raise UserError(f"The corpus {pattern} is empty; give a file with text in it.")
        self.size_bytes = sum(map(content_size, self.paths))
        self._replaced: dict[Path, int] = {}
        self._empty_rows: dict[Path, int] = {}

    @cached_property
    def kinds(self) -> dict[Path, FileKind]:
        """How each file is read. UserError where all look like rows that lack the field."""
        kinds = {path: kind_of(path, self.format, self.text_field) for path in self.paths}
        if all(kind.lacks_field for kind in kinds.values()):
            path, kind = next(iter(kinds.items()))
            raise UserError(
                f"{path} has no text in the field {self.text_field!r}; its fields are: {name_some(kind.fields)} "
                "(data.text_field names the one to use; with data.format text the file is learnt as it is)."
            )
        return kinds

    def documents(self) -> Iterator[Document]:
        replaced, empty = keep_largest(self._replaced), keep_largest(self._empty_rows)
        for path, kind in self.kinds.items():
            if kind.reading == "jsonl":
                yield from read_json_documents(path, kind, self.text_field, replaced, empty)
            elif kind.reading == "csv":
                yield from read_csv_documents(path, kind, self.text_field, replaced, empty)
            elif kind.reading == "parquet":
                yield from read_parquet(path, self.text_field, replaced, empty=empty)
            else:
                yield from read_text_documents(path, self.separator, replaced)

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        parts = (part for path in self.paths for part in (self._mark(path), self.hashes.of(path, advance)))
        return digest("files", self.text_field, self.separator, *parts)

    def _mark(self, path: Path) -> str:
        """How a file is read, for the fingerprint: its suffix, where that alone says so."""
        if self.format != "auto":
            return self.format
        reading = self.kinds[path].reading
        if path.suffix == ".json" and reading == "jsonl" and self.kinds[path].shape == "list":
            return "list"
        return path.suffix if NAMED_READINGS.get(path.suffix, "text") == reading else f"{path.suffix} as {reading}"

    def warnings(self) -> list[str]:
        found = describe_passed_over(self.passed_over)
        found += first_few(describe_replaced(path, count) for path, count in self._replaced.items() if count)
        found += first_few(
            f"{path}: left out {count:,} row{'s' * (count != 1)} without text in the field {self.text_field!r} (null)."
            for path, count in self._empty_rows.items()
            if count
        )
        found += first_few(
            f"{path} was read as plain text: it has no field {self.text_field!r} but {name_some(kind.fields)} "
            "(data.text_field names the one to use)."
            for path, kind in self.kinds.items()
            if kind.fields and kind.reading == "text"
        )
        if len(self.paths) == 1 and is_web_page(self.paths[0]):
            found.append(f"{self.paths[0]} is a web page: its markup is learnt like the rest; look for a plain text.")
        return found


def keep_largest(counts: dict[Path, int]) -> Callable[[Path, int], None]:
    """A function that notes a file's count there; files are read several times, and not always to their end."""

    def note(path: Path, count: int) -> None:
        counts[path] = max(count, counts.get(path, 0))

    return note


def check_text(corpus: Corpus) -> None:
    """UserError where there is no document in a corpus; it says what was left out."""
    if next(iter(corpus.documents()), None) is None:
        reasons = " ".join(corpus.warnings())
        raise UserError(
            f"{corpus.name} holds no text{f' ({reasons})' if reasons else ''}; give a file with text in it."
        )


def first_few(sentences: Iterable[str]) -> list[str]:
    """The first sentences of a kind, and the number of the others."""
    every = list(sentences)
    left = len(every) - SENTENCES_AT_MOST
    return every if left <= 0 else [*every[:SENTENCES_AT_MOST], f"The same of {left:,} more files."]


def no_files(pattern: str, passed_over: list[PassedOver]) -> UserError:
    """The error of a pattern that means no file with text."""
    if not os.access(Path(pattern).expanduser(), os.R_OK):
        return MissingText(
            f"There is no corpus {pattern}: it is neither stories nor pylib, and no file or folder has that "
            "name; check data.corpus."
        )
    reasons = " ".join(describe_passed_over(passed_over))
    return MissingText(
        f"{pattern} holds no text files; give another folder or file in data.corpus.{f' {reasons}' if reasons else ''}"
    )


def describe_replaced(path: Path, count: int) -> str:
    """A sentence about bytes that are no UTF-8: that the file's encoding is another, which, and what to do."""
    encoding = guess_encoding(path)
    return (
        f"{path}: {count:,} bytes that are not UTF-8 were read as U+FFFD: the file has another encoding or is damaged; "
        + (
            f"if it is {encoding}, convert it (iconv -f {encoding} -t UTF-8 FILE > NEW) and give the new file."
            if encoding
            else "convert it to UTF-8 and give the new file."
        )
    )


def digest(*parts: str) -> str:
    """sha256 of the parts, each set off from the next."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
