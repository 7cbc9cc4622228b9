"""Token files: little-endian ids in `NAME.bin`, described by a header in `NAME.json`.

A split of a dataset is a sequence of such shards, read in pieces, so that its size costs neither memory nor file
descriptors. The header is written after the ids are on disk: a shard without a header is incomplete.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from llm.data.tokens.open_files import OpenFiles
from llm.errors import UserError
from llm.reader import WRONG_SHAPE, Malformed, load_json

FORMAT = "llm-workbench tokens"
VERSION = 1
MAX_HEADER_BYTES = 1 << 12
SHARD_TOKENS = 1 << 26
BLOCK_TOKENS = 1 << 22  # read at once when all of a file is read

Tokens = NDArray[np.unsignedinteger]


class TokenSplit(Protocol):
    """A long sequence of token ids, stored anywhere."""

    @property
    def name(self) -> str:
        """Its name in messages, such as "training"."""

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text; separators count none."""

    @property
    def bytes_scale(self) -> float:
        """Bytes of the text per byte of the decoded tokens: not 1 if the tokenizer rewrites text."""

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The type that `read` returns."""

    def __len__(self) -> int:
        """Number of tokens."""

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop), (stop - start,). IndexError outside the sequence."""


def check_length(split: TokenSplit, seq_len: int) -> None:
    """UserError unless the split holds at least one window with its targets (seq_len + 1 tokens)."""
    if len(split) < seq_len + 1:
        raise UserError(
            f"The {split.name} text is {len(split):,} tokens long, too short for one window of {seq_len:,} tokens "
            f"and its target; give more text or a shorter train.seq_len (model.context)."
        )


@dataclass(frozen=True)
class Header:
    """The fields of a shard's JSON file. `vocabulary` is the tokenizer's fingerprint, `sha256` that of the .bin
    file."""

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

    Memory is bounded by the largest single `write`. An id outside the vocabulary raises UserError with the shard and
    the offset. Call `close` to finish the last shard.
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
        """Append `ids`, starting a new shard when one is full."""
        tokens = np.asarray(ids, dtype=np.int64)
        while len(tokens):
            if self._file is None:
                self.names.append(self._name(len(self.names)))
                self._file = self._path(self.suffix).open("wb")
            part, tokens = np.split(tokens, [self.shard_tokens - self._count])
            path = self._path(self.suffix)
            check_ids(part, self.vocab_size, path, self._count, remedy(path.parent))
            raw = part.astype(self.dtype).tobytes()
            self._file.write(raw)
            self._digest.update(raw)
            self._count += len(part)
            self.total += len(part)
            if self._count == self.shard_tokens:
                self._finish()

    def close(self) -> None:
        """Finish the current shard; safe to call twice."""
        if self._file is not None:
            self._finish()

    def record(self) -> dict[str, list[str]]:
        """The entries of the index that name the files."""
        return {"shards": self.names}

    @property
    def finished(self) -> int:
        """The number of complete shards."""
        return len(self.names) - (self._file is not None)

    def state(self) -> dict[str, Any]:
        """What `resume` needs to continue here, as plain JSON; what was written so far is then on disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {"names": list(self.names), "count": self._count, "sha256": self._digest.hexdigest()}

    def resume(self, state: Mapping[str, Any], advance: Callable[[int], object] = lambda size: None) -> None:
        """Continue a writer of the same arguments where it had `state`, after reading all that it wrote; `advance` is
        called with the number of bytes read. UserError or an error of WRONG_SHAPE where that is not intact."""
        self.names, self._count = [str(name) for name in state["names"]], int(state["count"])
        complete = self.names[:-1] if self._count else self.names
        for name in complete:
            shard = Shard(self.directory / f"{name}{self.suffix}")
            shard.verify(advance)
            if shard.header.vocabulary != self.vocabulary:
                raise ValueError("another tokenizer")
            self.total += len(shard)
        if self._count:
            self._file = self._path(self.suffix).open("r+b")
            written = self._file.read(self._count * self.dtype.itemsize)
            self._digest.update(written)
            if self._digest.hexdigest() != state["sha256"]:
                raise ValueError("an incomplete shard that differs from what was written")
            self._file.truncate(len(written))
            self.total += self._count
            advance(len(written))

    def _finish(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._describe(self._digest.hexdigest())
        self._file, self._count, self._digest = None, 0, hashlib.sha256()

    def _name(self, index: int) -> str:
        return f"{self.stem}-{index:05d}"

    def _describe(self, sha256: str) -> None:
        header = Header(self._count, self.dtype.name, self.vocab_size, self.vocabulary, sha256)
        write_synced(self._path(".json"), json.dumps(asdict(header), indent=1).encode())

    def _path(self, suffix: str) -> Path:
        return self.directory / (self.names[-1] + suffix)


class Shard:
    """One token file, its size checked against its header.

    UserError names the file and the lengths if the file is missing, empty, truncated, has extra bytes or an unknown
    format.
    """

    def __init__(self, path: Path, files: OpenFiles | None = None) -> None:
        self.path, self.remedy = path, remedy(path.parent)
        self._files = files or OpenFiles()
        self.header = read_header(path.with_suffix(".json"), self.remedy)
        self.dtype = dtype_for(self.header.vocab_size)
        self.expected = self.header.count * self.dtype.itemsize
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"The token file {path} cannot be read ({error.strerror}); {self.remedy}") from error
        self._check_size(size)

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
                f"({self.header.count:,} tokens of {self.dtype.itemsize} bytes); {self.remedy}"
            )

    def verify(self, advance: Callable[[int], object] = lambda size: None) -> None:
        """Check every id against the vocabulary and the file against its sha256; `advance` is called with the number of
        bytes read."""
        blocks = (self.read(start, start + BLOCK_TOKENS) for start in range(0, len(self), BLOCK_TOKENS))
        verify_tokens(self.path, blocks, self.header.vocab_size, self.header.sha256, self.remedy, advance)


class TokenPiece(Protocol):
    """A part of a sequence, stored separately."""

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
        """Tokens [start, stop), across pieces; reads only the pieces that hold some of them."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while start < stop:
            piece, first = self.pieces[index], int(self._starts[index])
            part = piece.read(start - first, min(stop - first, len(piece)))
            parts.append(part)
            start += len(part)
            index += 1
        return np.concatenate(parts) if len(parts) > 1 else parts[0] if parts else np.empty(0, self.dtype)


class ShardedTokens(JoinedTokens):
    """The shards that a ShardWriter wrote, as one sequence."""

    def __init__(self, name: str, paths: Sequence[Path], text_bytes: int) -> None:
        files = OpenFiles()
        shards = [Shard(path, files) for path in paths]
        if len({(shard.header.vocabulary, shard.dtype) for shard in shards}) > 1:
            raise UserError(
                f"The token files in {paths[0].parent} come from different tokenizers; {remedy(paths[0].parent)}"
            )
        super().__init__(name, shards, text_bytes, shards[0].dtype if shards else dtype_for(1))


def check_ids(tokens: NDArray[np.integer], vocab_size: int, path: Path, offset: int, advice: str) -> None:
    """UserError names the file and the offset of the first id that is not below `vocab_size`. `offset` is that of
    tokens[0]."""
    if len(tokens) and (tokens.max() >= vocab_size or tokens.min() < 0):
        place = int(np.argmax((tokens >= vocab_size) | (tokens < 0)))
        raise UserError(
            f"The token file {path} holds the id {tokens[place]} at offset {offset + place:,}, "
            f"but the vocabulary ends at {vocab_size - 1}; {advice}"
        )


def verify_tokens(
    path: Path,
    blocks: Iterable[NDArray[np.integer]],
    vocab_size: int,
    sha256: str,
    advice: str,
    advance: Callable[[int], object],
) -> None:
    """Check every id in `blocks`, which are the content of `path`, and its sha256 unless that is "" (unknown).

    `advance` is called with the number of bytes read. UserError ends in `advice`.
    """
    digest, offset = hashlib.sha256(), 0
    for tokens in blocks:
        check_ids(tokens, vocab_size, path, offset, advice)
        digest.update(tokens.data)
        offset += len(tokens)
        advance(tokens.nbytes)
    if sha256 and digest.hexdigest() != sha256:
        raise UserError(f"The token file {path} differs from what was written; {advice}")


def is_header(path: Path) -> bool:
    """Whether a file is the header of a shard; another program may use the same name for something else."""
    try:
        record = load_json(path, MAX_HEADER_BYTES)
    except (OSError, Malformed):
        return False
    return isinstance(record, dict) and record.get("format") == FORMAT


def read_header(path: Path, advice: str) -> Header:
    """The header in a shard's JSON file. UserError ends in `advice` if it is missing, damaged or newer than this
    version."""
    try:
        record = load_json(path, MAX_HEADER_BYTES)
        header = Header(**{name: record[name] for name in Header.__dataclass_fields__})
        check_types(header)
    except OSError as error:
        raise UserError(f"The token header {path} cannot be read ({error.strerror}); {advice}") from error
    except WRONG_SHAPE as error:
        raise UserError(f"The token header {path} is damaged; {advice}") from error
    if (header.format, header.version) != (FORMAT, VERSION):
        raise UserError(f"The token header {path} has a format this version does not know; {advice}")
    if header.dtype != dtype_for(header.vocab_size).name or header.count <= 0:
        raise UserError(
            f"The token header {path} promises {header.count} tokens of {header.dtype} for a vocabulary of "
            f"{header.vocab_size}, which is impossible; {advice}"
        )
    return header


def check_types(header: Header) -> None:
    """TypeError unless every field of a header has its type."""
    numbers = (header.count, header.vocab_size, header.version)
    texts = (header.dtype, header.vocabulary, header.sha256, header.format)
    if not all(type(number) is int for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise TypeError("a field of the wrong type")


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk. Not atomic: for a directory that is not published yet."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remedy(folder: Path) -> str:
    """What to do about a damaged file in the folder of a tokenized dataset."""
    return f"delete the folder {folder} and it will be made again."
