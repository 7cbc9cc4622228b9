"""Corpora: two that need no download, and the user's own files."""

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
from llm.data.text.arrow import read_arrow
from llm.data.text.file_kinds import FileKind, kind_of, name_some
from llm.data.text.find_files import SkippedFile, describe_skipped, search_files, walk
from llm.data.text.parquet import read_parquet
from llm.data.text.rows import read_csv_documents, read_json_documents
from llm.data.text.text_files import (
    Document,
    FileHashes,
    MissingText,
    content_size,
    guess_encoding,
    is_web_page,
    make_document,
    read_text_documents,
)
from llm.errors import UserError
from llm.files import expand_user

BUILT_IN = ("stories", "pylib")
"""Corpora without files of the user. Their beginning is a fair sample: stories are independent, and the files of pylib
are shuffled."""
Advance = Callable[[int], None]
CACHED_BYTES = 32 << 20
PYLIB_SUFFIXES = (".py", ".txt", ".rst")
MAX_SENTENCES = 5
NAMED_READINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
NOT_PYLIB = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


class Corpus(Protocol):
    """Documents that can be read repeatedly, with the same result."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def size_bytes(self) -> int:
        """Approximate bytes of text."""

    def documents(self) -> Iterator[Document]:
        """Every document, in a fixed order, in bounded memory."""

    def fingerprint(self, advance: Advance = ...) -> str:
        """Hexadecimal digest of what decides the text. `advance` is called with the number of bytes read."""

    def warnings(self) -> list[str]:
        """Problems in the documents read so far, one sentence each."""


def open_corpus(data: DataConfig, home: Path, separator: str = "") -> Corpus:
    """The corpus that `data.corpus` names. `separator` is the text between documents in text files.

    Raises UserError if a file is missing or empty.
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
    """Generated stories; a small corpus is cached, since each story is read two or three times."""

    name = "stories"

    def __init__(self, seed: int, size_bytes: int) -> None:
        self.seed, self.size_bytes = seed, size_bytes
        self._cached: list[str] = []
        self._generator = stories.stories(seed, size_bytes)

    def documents(self) -> Iterator[Document]:
        texts = self._cached_texts() if self.size_bytes <= CACHED_BYTES else stories.stories(self.seed, self.size_bytes)
        for number, text in enumerate(texts, 1):
            yield Document(f"story {number}", len(text), (text,))  # ASCII: as many bytes as characters

    def _cached_texts(self) -> Iterator[str]:
        for number in itertools.count():
            if number == len(self._cached):
                self._cached.extend(itertools.islice(self._generator, 1))
            if number == len(self._cached):
                return
            yield self._cached[number]

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        return digest("stories", stories.fingerprint(), str(self.seed), str(self.size_bytes))

    def warnings(self) -> list[str]:
        return []


class PylibCorpus:
    """The standard library of the running Python: source and text files, without tests.

    Files are ordered by the hashes of their names, so that any amount is a fair sample of the whole.
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
            yield from filter(None, [make_document(path.relative_to(self.root).as_posix(), text)])

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        return digest("pylib", *(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths))

    def warnings(self) -> list[str]:
        return []


class FileCorpus:
    """The text, JSON, CSV, Parquet or Arrow files of a path, folder or glob."""

    def __init__(self, pattern: str, text_field: str, separator: str, hashes: FileHashes, format: str = "auto") -> None:
        self.name, self.text_field, self.separator, self.hashes = pattern, text_field, separator, hashes
        self.format = format
        self.paths, self.skipped = search_files(pattern)
        if not self.paths:
            raise no_files_error(pattern, self.skipped)
        if not any(path.stat().st_size for path in self.paths):
            raise UserError(f"The corpus {pattern} is empty; give a file with text in it.")
        self.size_bytes = sum(map(content_size, self.paths))
        self._replaced: dict[Path, int] = {}
        self._empty_rows: dict[Path, int] = {}

    @cached_property
    def kinds(self) -> dict[Path, FileKind]:
        """How each file is read. UserError if all look like rows that lack the field."""
        from llm.data.text.conversation_files import conversation_shape

        kinds = {path: kind_of(path, self.format, self.text_field) for path in self.paths}
        if all(kind.lacks_field for kind in kinds.values()):
            path, kind = next(iter(kinds.items()))
            if conversation_shape(path):
                raise UserError(
                    f"{path} holds conversations, not text; to fine-tune a run on them: llm-workbench sft RUN "
                    f"--data.corpus {path}"
                )
            raise UserError(
                f"{path} has no text in the field {self.text_field!r}; its fields are: {name_some(kind.fields)} "
                "(data.text_field names the one to use; data.format text reads the file as plain text)."
            )
        return kinds

    def documents(self) -> Iterator[Document]:
        for path, kind in self.kinds.items():
            yield from self._documents_of(path, kind)

    def _documents_of(self, path: Path, kind: FileKind) -> Iterator[Document]:
        replaced, empty = track_largest(self._replaced), track_largest(self._empty_rows)
        if kind.reading == "jsonl":
            return read_json_documents(path, kind, self.text_field, replaced, empty)
        if kind.reading == "csv":
            return read_csv_documents(path, kind, self.text_field, replaced, empty)
        if kind.reading == "parquet":
            return read_parquet(path, self.text_field, replaced, on_empty=empty)
        if kind.reading == "arrow":
            return read_arrow(path, self.text_field, replaced, empty)
        return read_text_documents(path, self.separator, replaced)

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        parts = (part for path in self.paths for part in (self._mark(path), self.hashes.of(path, advance)))
        return digest("files", self.text_field, self.separator, *parts)

    def _mark(self, path: Path) -> str:
        """How a file is read, for the fingerprint: its suffix alone if that implies it."""
        if self.format != "auto":
            return self.format
        reading = self.kinds[path].reading
        if path.suffix == ".json" and reading == "jsonl" and self.kinds[path].shape == "list":
            return "list"
        return path.suffix if NAMED_READINGS.get(path.suffix, "text") == reading else f"{path.suffix} as {reading}"

    def warnings(self) -> list[str]:
        found = describe_skipped(self.skipped)
        found += limit_sentences(describe_replaced(path, count) for path, count in self._replaced.items() if count)
        found += limit_sentences(
            f"{path}: skipped {count:,} row{'s' * (count != 1)} without text in the field {self.text_field!r} (null)."
            for path, count in self._empty_rows.items()
            if count
        )
        found += limit_sentences(
            f"{path} was read as plain text: it has no field {self.text_field!r} but {name_some(kind.fields)} "
            "(data.text_field names the one to use)."
            for path, kind in self.kinds.items()
            if kind.fields and kind.reading == "text"
        )
        if len(self.paths) == 1 and is_web_page(self.paths[0]):
            found.append(
                f"{self.paths[0]} is a web page: the model is trained on its markup too; use a plain text instead."
            )
        return found


def track_largest(counts: dict[Path, int]) -> Callable[[Path, int], None]:
    """A function that stores a file's largest count: files are read several times, not always to the end."""

    def note(path: Path, count: int) -> None:
        counts[path] = max(count, counts.get(path, 0))

    return note


def check_text(corpus: Corpus) -> None:
    """UserError if a corpus has no document; it lists what was skipped."""
    if next(iter(corpus.documents()), None) is None:
        reasons = " ".join(corpus.warnings())
        raise UserError(
            f"{corpus.name} holds no text{f' ({reasons})' if reasons else ''}; give a file with text in it."
        )


def limit_sentences(sentences: Iterable[str]) -> list[str]:
    """The first sentences of a kind, and the number of the rest."""
    every = list(sentences)
    rest = len(every) - MAX_SENTENCES
    return every if rest <= 0 else [*every[:MAX_SENTENCES], f"The same for {rest:,} more files."]


def no_files_error(pattern: str, skipped: list[SkippedFile]) -> UserError:
    """The error of a pattern that matches no file with text, or of a folder that may not be read."""
    if not os.access(expand_user(pattern), os.F_OK):
        return MissingText(
            f"There is no corpus {pattern}: it is neither stories nor pylib, and no file or folder has that name; "
            "check data.corpus."
        )
    if not os.access(expand_user(pattern), os.R_OK):
        return MissingText(f"{pattern} may not be read; allow that, or give another folder or file in data.corpus.")
    reasons = " ".join(describe_skipped(skipped))
    return MissingText(
        f"{pattern} holds no text files; give another folder or file in data.corpus.{f' {reasons}' if reasons else ''}"
    )


def describe_replaced(path: Path, count: int) -> str:
    """A sentence about bytes that are not UTF-8: the likely encoding of the file, and what to do."""
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
    """sha256 of the parts, joined by NUL."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
