"""Token files of other programs, read in place, and one of their layouts that this program can write.

- `*.npy`: one dimension of any integer type (numpy).
- `encoded_tokens_chunk_K.dat`: int32 without a header, K counting from 0 (the CS336 lecture).
- `*.bin` with a header of 256 int32, of which the first three are magic, version and count: uint16 (llm.c,
  modded-nanogpt).
- `*.bin` with the `.json` header of a shard (`shards`): as the header says.
- Any other `*.bin`: uint16 without a header (nanoGPT, llama2.c).

All integers are little-endian, except in a .npy file that says otherwise.
"""

from __future__ import annotations

import os
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from llm.config.schema import DataConfig
from llm.data.text.corpora import digest
from llm.data.text.text_files import FileHashes, open_binary
from llm.data.tokens.open_files import OpenFiles
from llm.data.tokens.shards import (
    BLOCK_TOKENS,
    JoinedTokens,
    ShardWriter,
    Tokens,
    TokenSplit,
    dtype_for,
    is_header,
    read_header,
    verify_tokens,
)
from llm.data.tokens.token_paths import CHUNK, HEADER_MAGIC, token_file_splits
from llm.errors import ConfigError, Problem, UserError
from llm.files import expand_user
from llm.tokenizer import Tokenizer
from llm.tokenizer.textbytes import TextBytes

HEADER_VERSION, HEADER_BYTES = 1, 256 * 4
# What numpy raises at a damaged header, which it parses as a Python literal.
NOT_NPY = (ValueError, SyntaxError, tokenize.TokenError, TypeError, LookupError, RecursionError, MemoryError)


class Layout(NamedTuple):
    """The place of the ids in a file: `tokens` of `dtype` from byte `offset` on."""

    dtype: np.dtype[np.integer]
    offset: int
    tokens: int


class TokenFile:
    """One token file. UserError names the file and the lengths if they disagree or the file is empty.

    `read` returns the narrowest unsigned type for `vocab_size`. It does not check ids; `verify` checks them all.
    """

    def __init__(self, path: Path, vocab_size: int, files: OpenFiles | None = None) -> None:
        self.path, self.vocab_size = path, vocab_size
        self.dtype = dtype_for(vocab_size)
        self._files = files or OpenFiles()
        with open_binary(path) as file:
            self._size = os.fstat(file.fileno()).st_size
            self.layout = read_layout(path, file, self._size)

    def __len__(self) -> int:
        return self.layout.tokens

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of this file."""
        return self.stored(start, stop).astype(self.dtype)

    def stored(self, start: int, stop: int) -> NDArray[np.integer]:
        """The same in the type they are stored in."""
        dtype, offset, count = self.layout
        wanted = max(0, min(stop, count) - start) * dtype.itemsize
        raw, now = self._files.read(self.path, offset + start * dtype.itemsize, wanted)
        if now < self._size:
            raise UserError(f"The token file {self.path} shrank from {self._size:,} to {now:,} bytes; restore it.")
        return np.frombuffer(bytearray(raw), dtype=dtype)

    def verify(
        self,
        advance: Callable[[int], None],
        advice: str = "give the tokenizer that made this file (tokenizer.path).",
        sha256: str = "",
    ) -> None:
        """Check every id, and the sha256 of the ids if given; `advance` is called with the number of bytes read.
        UserError names the file and the offset, and ends in `advice`."""
        blocks = (self.stored(start, start + BLOCK_TOKENS) for start in range(0, len(self), BLOCK_TOKENS))
        verify_tokens(self.path, blocks, self.vocab_size, sha256, advice, advance)


class TokenRange:
    """A TokenSplit of tokens [start, stop) of another one."""

    bytes_scale = 1.0

    def __init__(self, name: str, split: TokenSplit, start: int, stop: int, text_bytes: int = 0) -> None:
        self.name, self.split, self.start, self.stop, self.bytes = name, split, start, stop, text_bytes
        self.dtype = split.dtype

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of the range. IndexError outside it."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        return self.split.read(self.start + start, self.start + stop)


class ChunkWriter(ShardWriter):
    """Writes ids like the code of the CS336 lecture: files of `shard_tokens` int32 without headers.

    `checksums` are the sha256 of the finished files.
    """

    suffix = ".dat"

    def __init__(self, directory: Path, *, vocab_size: int, vocabulary: str, shard_tokens: int) -> None:
        super().__init__(directory, "", vocab_size=vocab_size, vocabulary=vocabulary, shard_tokens=shard_tokens)
        self.checksums: list[str] = []
        directory.mkdir()
        self.dtype = np.dtype("<i4")  # type: ignore[assignment]  # ids fit: they are below 2^31

    def _name(self, index: int) -> str:
        return f"encoded_tokens_chunk_{index}"

    def _describe(self, sha256: str) -> None:
        self.checksums.append(sha256)

    def record(self) -> dict[str, list[str]]:
        return {"chunks": self.names, "sha256": self.checksums}


class TokenCorpus:
    """Token files instead of text: those of `data.corpus`, and for validation those of `data.validation` or a share of
    the corpus."""

    def __init__(self, data: DataConfig, home: Path) -> None:
        self.names, self.fraction = (data.corpus, data.validation), data.validation_fraction
        self.train_paths, self.validation_paths = token_file_splits(data)
        self._hashes = FileHashes(home / "data" / "files.json")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TokenCorpus:
        """The files at the paths in `record`."""
        return cls(DataConfig(**record, format="tokens"), Path())

    def record(self) -> dict[str, Any]:
        """The input of `from_record`, as plain JSON."""
        corpus, validation = (str(expand_user(name).absolute()) if name else "" for name in self.names)
        return {"corpus": corpus, "validation": validation, "validation_fraction": self.fraction}

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in [*self.train_paths, *self.validation_paths])

    def fingerprint(self, advance: Callable[[int], None] = lambda size: None) -> str:
        """Hexadecimal digest of what decides the tokens. `advance` is called with the number of bytes read."""
        sides = (self.train_paths, self.validation_paths)
        return digest("tokens", *(digest(*(self._hashes.of(path, advance) for path in paths)) for paths in sides))

    def splits(self, vocab_size: int, records: Mapping[str, Any]) -> tuple[TokenSplit, TokenSplit]:
        """The training and the validation tokens; `records` has the bytes of text of each split."""
        train_bytes, validation_bytes = (records[name]["bytes"] for name in ("train", "validation"))
        train = join_token_files("training", self.train_paths, vocab_size, train_bytes)
        if self.validation_paths:
            return train, join_token_files("validation", self.validation_paths, vocab_size, validation_bytes)
        cut = int((1 - self.fraction) * len(train))
        return (
            TokenRange("training", train, 0, cut, train_bytes),
            TokenRange("validation", train, cut, len(train), validation_bytes),
        )

    def verify(self, tokenizer: Tokenizer, text_path: Path, advance: Callable[[int], None]) -> dict[str, Any]:
        """Check every token and write the validation tokens to `text_path` as text; returns the records of `splits`.

        UserError names the file and the offset of the first id outside the vocabulary.
        """
        for path in [*self.train_paths, *self.validation_paths]:
            TokenFile(path, tokenizer.vocab_size).verify(advance)
        empty = {"bytes": 0}
        train, validation = self.splits(tokenizer.vocab_size, {"train": empty, "validation": empty})
        text = TextBytes(tokenizer)
        with text_path.open("wb") as file:
            for tokens, before in blocks_with_previous(validation, text.beginning):
                file.write(text.text(tokens, before))
        return {
            name: {"bytes": decoded_bytes(split, tokenizer), "tokens": len(split)}
            for name, split in {"train": train, "validation": validation}.items()
        }


def decoded_bytes(split: TokenSplit, tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of the decoded tokens. They differ from those of the text if the tokenizer rewrites text."""
    text = TextBytes(tokenizer)
    return sum(int(text.counts(*block).sum()) for block in blocks_with_previous(split, text.beginning))


def blocks_with_previous(split: TokenSplit, beginning: int) -> Iterator[tuple[Tokens, Tokens]]:
    """All of a sequence in blocks, each with the tokens one position earlier; `beginning` precedes the first token."""
    last = beginning
    for start in range(0, len(split), BLOCK_TOKENS):
        tokens = split.read(start, min(start + BLOCK_TOKENS, len(split)))
        yield tokens, np.concatenate([np.array([last], dtype=np.uint32), tokens[:-1]])
        last = int(tokens[-1])


def join_token_files(name: str, paths: Sequence[Path], vocab_size: int, text_bytes: int) -> JoinedTokens:
    files = OpenFiles()
    pieces = [TokenFile(path, vocab_size, files) for path in paths]
    return JoinedTokens(name, pieces, text_bytes, dtype_for(vocab_size))


def needs_tokenizer() -> ConfigError:
    """The error of token files without the tokenizer that made them."""
    message = (
        "is needed to read token files: give the tokenizer that made them (its directory or file), or set "
        "tokenizer.kind to tiktoken or byte"
    )
    return ConfigError([Problem("tokenizer.path", message)])


def read_layout(path: Path, file: BinaryIO, size: int) -> Layout:
    """The place of the ids in `file`, which has `size` bytes. UserError names the file and the lengths."""
    if not size:
        raise UserError(f"The token file {path} is empty; give another file, or write it again.")
    if path.suffix == ".npy":
        return npy_layout(path, file, size)
    described = path.with_suffix(".json")
    if path.suffix == ".bin" and is_header(described):
        header = read_header(described, "restore it, or tokenize the text again.")
        return check_layout(path, Layout(dtype_for(header.vocab_size), 0, header.count), size)
    if CHUNK.fullmatch(path.name):
        return headerless(path, np.dtype("<i4"), size)
    words = np.frombuffer(file.read(12), dtype="<i4", count=3 if size >= HEADER_BYTES else 0)
    if len(words) and words[0] == HEADER_MAGIC:
        if words[1] != HEADER_VERSION:
            raise UserError(
                f"The token file {path} has header version {words[1]}, and only 1 is supported; convert it."
            )
        return check_layout(path, Layout(np.dtype("<u2"), HEADER_BYTES, int(words[2])), size)
    return headerless(path, np.dtype("<u2"), size)


def npy_layout(path: Path, file: BinaryIO, size: int) -> Layout:
    """The layout in the header of a .npy file, read without executing anything."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except NOT_NPY as error:
        raise UserError(f"{path} is not a .npy file (its header cannot be read); give another file.") from error
    if len(shape) != 1 or dtype.kind not in "iu":
        raise UserError(f"{path} holds {dtype} of shape {shape}, not one row of token ids; give another file.")
    return check_layout(path, Layout(dtype, file.tell(), shape[0]), size)


def headerless(path: Path, dtype: np.dtype[np.integer], size: int) -> Layout:
    count, over = divmod(size, dtype.itemsize)
    if over:
        raise UserError(
            f"The token file {path} has {size:,} bytes, {over} more than {count:,} tokens of {dtype.itemsize} bytes; "
            "restore the whole file."
        )
    return Layout(dtype, 0, count)


def check_layout(path: Path, layout: Layout, size: int) -> Layout:
    expected = layout.offset + layout.tokens * layout.dtype.itemsize
    if layout.tokens < 1 or size != expected:
        raise UserError(
            f"The token file {path} has {size:,} bytes where its header promises {expected:,} "
            f"({layout.tokens:,} tokens of {layout.dtype.itemsize} bytes); restore the whole file."
        )
    return layout
