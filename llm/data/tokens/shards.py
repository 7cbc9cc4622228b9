"""Token files: raw little-endian ids in `NAME.bin`, and `NAME.json` beside it saying what they are.

A split of a data set is several such shards read as one long sequence, piece by piece, so that its size costs neither
memory nor descriptors. The header is written after the ids are on disk: no header, no shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from llm.data.tokens.open_files import OpenFiles
from llm.errors import UserError
from llm.reader import WRONG_SHAPE, Malformed, load_json

FORMAT = "llm-workbench tokens"
VERSION = 1
LARGEST_HEADER = 1 << 12
SHARD_TOKENS = 1 << 26
VERIFY_TOKENS = 1 << 22

Tokens = NDArray[np.unsignedinteger]


class TokenSplit(Protocol):
    """A long sequence of token ids, wherever it is stored."""

    @property
    def name(self) -> str:
        """What to call it in a message, such as "training"."""

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text the tokens stand for; separators count none."""

    @property
    def bytes_scale(self) -> float:
        """Bytes of the text itself for each byte that the tokens spell: not 1 where a tokenizer rewrites text."""

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The type `read` returns."""

    def __len__(self) -> int:
        """Number of tokens."""

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop), exactly stop - start of them. IndexError outside the sequence."""


def check_length(split: TokenSplit, seq_len: int) -> None:
    """UserError unless the split holds at least one window with its targets (seq_len + 1 tokens)."""
    if len(split) < seq_len + 1:
        raise UserError(
            f"The {split.name} text is {len(split):,} tokens long, too short for one window of {seq_len:,} tokens "
            f"and its target; give more text or a shorter train.seq_len (model.context)."
        )


@dataclass(frozen=True)
class Header:
    """What a shard's JSON file says. `vocabulary` is the tokenizer's fingerprint, `sha256` that of the .bin file."""

    count: int
    dtype: str
    vocab_size: int
    vocabulary: str
    sha256: str
    format: str = FORMAT
    version: int = VERSION


def dtype_for(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest little-endian type that holds ids below `vocab_size`: uint16 or uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Writes a stream of ids into `DIRECTORY/STEM-00000.bin`, `-00001.bin`, … with a header each.

    Memory stays bounded by the largest single `write`. An id outside the vocabulary is refused with its shard and
    offset. Call `close` to finish the last shard.
    """

    suffix = ".bin"

    def __init__(
        self, directory: Path, stem: str, *, vocab_size: int, vocabulary: str, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        self.directory, self.stem = directory, stem
        self.vocab_size, self.vocabulary, self.shard_tokens = vocab_size, vocabulary, shard_tokens
        self.dtype = dtype_for(vocab_size)
        self.names: list[str] = []
        self.total = 0
        self._file: BinaryIO | None = None
        self._count = 0
        self._digest = hashlib.sha256()

    def write(self, ids: Sequence[int] | NDArray[np.integer]) -> None:
        """Append `ids`, beginning a new shard whenever one is full."""
        tokens = np.asarray(ids, dtype=np.int64)
        while len(tokens):
            if self._file is None:
                self.names.append(self._name(len(self.names)))
                self._file = self._path(self.suffix).open("wb")
            part, tokens = np.split(tokens, [self.shard_tokens - self._count])
            path = self._path(self.suffix)
            check_ids(part, self.vocab_size, path, self._count, remedy(path))
            raw = part.astype(self.dtype).tobytes()
            self._file.write(raw)
            self._digest.update(raw)
            self._count += len(part)
            self.total += len(part)
            if self._count == self.shard_tokens:
                self._finish()

    def close(self) -> None:
        """Finish the shard being written; safe to call twice."""
        if self._file is not None:
            self._finish()

    def _finish(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._describe()
        self._file, self._count, self._digest = None, 0, hashlib.sha256()

    def _name(self, index: int) -> str:
        return f"{self.stem}-{index:05d}"

    def _describe(self) -> None:
        header = Header(self._count, self.dtype.name, self.vocab_size, self.vocabulary, self._digest.hexdigest())
        write_synced(self._path(".json"), json.dumps(asdict(header), indent=1).encode())

    def _path(self, suffix: str) -> Path:
        return self.directory / (self.names[-1] + suffix)


class Shard:
    """One token file, its size checked against its header.

    Raises UserError, naming the file and the lengths, when the file is missing, empty, cut short, has odd bytes over,
    or is of an unknown format. With `verify` every id is checked against the vocabulary and the file against its
    sha256.
    """

    def __init__(self, path: Path, *, verify: bool = False, files: OpenFiles | None = None) -> None:
        self.path = path
        self._files = files or OpenFiles()
        self.header = read_header(path.with_suffix(".json"), remedy(path))
        self.dtype = dtype_for(self.header.vocab_size)
        self.expected = self.header.count * self.dtype.itemsize
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"The token file {path} cannot be read ({error.strerror}); {remedy(path)}") from error
        self._check_size(size)
        if verify:
            self.verify()

    def __len__(self) -> int:
        return self.header.count

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of this shard."""
        stop, unit = min(stop, len(self)), self.dtype.itemsize
        raw, size = self._files.read(self.path, start * unit, max(0, stop - start) * unit)
        self._check_size(size)
        return np.frombuffer(bytearray(raw), dtype=self.dtype)

    def _check_size(self, size: int) -> None:
        if size != self.expected or not size:
            raise UserError(
                f"The token file {self.path} has {size:,} bytes where its header promises {self.expected:,} "
                f"({self.header.count:,} tokens of {self.dtype.itemsize} bytes); {remedy(self.path)}"
            )

    def verify(self, advance: Callable[[int], object] = lambda size: None) -> None:
        """Look at every id and compare the file with its sha256; `advance` is called with the bytes read."""
        digest = hashlib.sha256()
        for start in range(0, len(self), VERIFY_TOKENS):
            tokens = self.read(start, start + VERIFY_TOKENS)
            check_ids(tokens, self.header.vocab_size, self.path, start, remedy(self.path))
            digest.update(tokens.data)
            advance(tokens.nbytes)
        if digest.hexdigest() != self.header.sha256:
            raise UserError(f"The token file {self.path} differs from what was written; {remedy(self.path)}")


class TokenPiece(Protocol):
    """A part of a sequence that is stored by itself."""

    def __len__(self) -> int:
        """Number of tokens."""

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of this piece."""


class JoinedTokens:
    """A TokenSplit made of consecutive pieces."""

    bytes_scale = 1.0

    def __init__(
        self, name: str, pieces: Sequence[TokenPiece], text_bytes: int, dtype: np.dtype[np.unsignedinteger]
    ) -> None:
        self.name, self.pieces, self.bytes, self.dtype = name, pieces, text_bytes, dtype
        self._starts = np.cumsum([0, *(len(piece) for piece in pieces)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop), across the borders of pieces; only pieces that hold some of them are touched."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while start < stop:
            piece, begins = self.pieces[index], int(self._starts[index])
            part = piece.read(start - begins, min(stop - begins, len(piece)))
            parts.append(part)
            start += len(part)
            index += 1
        return np.concatenate(parts) if len(parts) > 1 else parts[0] if parts else np.empty(0, self.dtype)


class ShardedTokens(JoinedTokens):
    """The shards that a ShardWriter wrote, as one sequence."""

    def __init__(self, name: str, paths: Sequence[Path], text_bytes: int, *, verify: bool = False) -> None:
        files = OpenFiles()
        shards = [Shard(path, verify=verify, files=files) for path in paths]
        if len({(shard.header.vocabulary, shard.dtype) for shard in shards}) > 1:
            raise UserError(f"The token files beside {paths[0]} come from different tokenizers; {remedy(paths[0])}")
        super().__init__(name, shards, text_bytes, shards[0].dtype if shards else dtype_for(1))


def check_ids(tokens: NDArray[np.integer], vocab_size: int, path: Path, offset: int, advice: str) -> None:
    """UserError naming file and offset when an id is not below `vocab_size`. `offset`: place of tokens[0]."""
    if len(tokens) and (tokens.max() >= vocab_size or tokens.min() < 0):
        place = int(np.argmax((tokens >= vocab_size) | (tokens < 0)))
        raise UserError(
            f"The token file {path} holds the id {tokens[place]} at offset {offset + place:,}, "
            f"but the vocabulary ends at {vocab_size - 1}; {advice}"
        )


def is_header(path: Path) -> bool:
    """Whether a file is the header of a shard: another program may keep something else under that name."""
    try:
        record = load_json(path, LARGEST_HEADER)
    except (OSError, Malformed):
        return False
    return isinstance(record, dict) and record.get("format") == FORMAT


def read_header(path: Path, advice: str) -> Header:
    """The header in a shard's JSON file. UserError, which ends in `advice`, when it is missing, damaged, or newer than
    this program."""
    try:
        record = load_json(path, LARGEST_HEADER)
        header = Header(**{name: record[name] for name in Header.__dataclass_fields__})
        check_kinds(header)
    except OSError as error:
        raise UserError(f"The token header {path} cannot be read ({error.strerror}); {advice}") from error
    except WRONG_SHAPE as error:
        raise UserError(f"The token header {path} is damaged; {advice}") from error
    if (header.format, header.version) != (FORMAT, VERSION):
        raise UserError(f"The token header {path} is of a format this version does not know; {advice}")
    if header.dtype != dtype_for(header.vocab_size).name or header.count <= 0:
        raise UserError(
            f"The token header {path} promises {header.count} tokens of {header.dtype} for a vocabulary of "
            f"{header.vocab_size}, which cannot be; {advice}"
        )
    return header


def check_kinds(header: Header) -> None:
    """TypeError unless every field of a header is of its kind."""
    numbers = (header.count, header.vocab_size, header.version)
    texts = (header.dtype, header.vocabulary, header.sha256, header.format)
    if not all(type(number) is int for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise TypeError("a field of the wrong kind")


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk. Not atomic: for use inside a directory still to be published."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remedy(path: Path) -> str:
    """What to do about a damaged file of a prepared data set."""
    return f"delete the folder {path.parent} and it will be made again."
