"""Token files that other programs write, read directly where they lie, and one layout of theirs written here.

- `*.npy`: one dimension of any integer type (numpy).
- `encoded_tokens_chunk_K.dat`: int32 without a header, K counting from 0 (the CS336 lecture).
- `*.bin` that begins with 256 int32, of which the first three are magic, version and count: uint16 (llm.c,
  modded-nanogpt).
- `*.bin` with a `.json` of our own beside it (`shards`): as that says.
- Any other `*.bin`: uint16 without a header (nanoGPT, llama2.c).

All integers are little-endian, unless a .npy file says otherwise.
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
from llm.data.text.text_files import FileHashes, opened
from llm.data.tokens.open_files import OpenFiles
from llm.data.tokens.shards import (
    VERIFY_TOKENS,
    JoinedTokens,
    ShardWriter,
    Tokens,
    TokenSplit,
    check_ids,
    dtype_for,
    is_header,
    read_header,
)
from llm.data.tokens.token_paths import CHUNK, HEADER_MAGIC, token_sides
from llm.errors import ConfigError, Problem, UserError
from llm.tokenizer import Tokenizer
from llm.tokenizer.textbytes import TextBytes

HEADER_VERSION, HEADER_BYTES = 1, 256 * 4
# What numpy's reader raises at a damaged header, which it parses as a Python literal.
NOT_NPY = (ValueError, SyntaxError, tokenize.TokenError, TypeError, LookupError, RecursionError, MemoryError)


class Layout(NamedTuple):
    """Where the ids lie in a file: `tokens` of `dtype` from byte `offset` on."""

    dtype: np.dtype[np.integer]
    offset: int
    tokens: int


class TokenFile:
    """One token file. Raises UserError, naming the file and the lengths, where they do not agree or there is nothing.

    `read` returns the narrowest unsigned type for `vocab_size`; ids are taken on trust, `verify` looks at all of them.
    """

    def __init__(self, path: Path, vocab_size: int, files: OpenFiles | None = None) -> None:
        self.path, self.vocab_size = path, vocab_size
        self.dtype = dtype_for(vocab_size)
        self._files = files or OpenFiles()
        with opened(path) as file:
            self._size = os.fstat(file.fileno()).st_size
            self.layout = read_layout(path, file, self._size)

    def __len__(self) -> int:
        return self.layout.tokens

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of this file."""
        return self.stored(start, stop).astype(self.dtype)

    def stored(self, start: int, stop: int) -> NDArray[np.integer]:
        """The same as they are stored."""
        dtype, offset, count = self.layout
        wanted = max(0, min(stop, count) - start) * dtype.itemsize
        raw, now = self._files.read(self.path, offset + start * dtype.itemsize, wanted)
        if now < self._size:
            raise UserError(f"The token file {self.path} shrank from {self._size:,} to {now:,} bytes; bring it back.")
        return np.frombuffer(bytearray(raw), dtype=dtype)

    def verify(self, advance: Callable[[int], None]) -> None:
        """Look at every id; UserError names file and offset of the first outside the vocabulary."""
        advice = "give the tokenizer that made this file (tokenizer.path)."
        for start in range(0, len(self), VERIFY_TOKENS):
            tokens = self.stored(start, start + VERIFY_TOKENS)
            check_ids(tokens, self.vocab_size, self.path, start, advice)
            advance(tokens.nbytes)


class TokenRange:
    """Tokens [start, stop) of another sequence, as a sequence."""

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
    """Writes ids as the CS336 lecture's code does: files of `shard_tokens` int32 without headers."""

    suffix = ".dat"

    def __init__(self, directory: Path, *, vocab_size: int, vocabulary: str, shard_tokens: int) -> None:
        super().__init__(directory, "", vocab_size=vocab_size, vocabulary=vocabulary, shard_tokens=shard_tokens)
        directory.mkdir()
        self.dtype = np.dtype("<i4")  # type: ignore[assignment]  # ids fit: they are below 2^31

    def _name(self, index: int) -> str:
        return f"encoded_tokens_chunk_{index}"

    def _describe(self) -> None:
        """No header."""


class TokenCorpus:
    """Token files in the place of text: `data.corpus`, and what of it or of `data.validation` is held out."""

    def __init__(self, data: DataConfig, home: Path) -> None:
        self.names, self.fraction = (data.corpus, data.validation), data.validation_fraction
        self.train_paths, self.validation_paths = token_sides(data)
        self._hashes = FileHashes(home / "data" / "files.json")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TokenCorpus:
        """The same files again, where they were when `record` said so."""
        return cls(DataConfig(**record, format="tokens"), Path())

    def record(self) -> dict[str, Any]:
        """What `from_record` needs, as plain JSON."""
        corpus, validation = (str(Path(name).expanduser().absolute()) if name else "" for name in self.names)
        return {"corpus": corpus, "validation": validation, "validation_fraction": self.fraction}

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in [*self.train_paths, *self.validation_paths])

    def fingerprint(self, advance: Callable[[int], None] = lambda size: None) -> str:
        """Hexadecimal digest of what decides the tokens. `advance` is told of bytes read to find it."""
        sides = (self.train_paths, self.validation_paths)
        return digest("tokens", *(digest(*(self._hashes.of(path, advance) for path in paths)) for paths in sides))

    def splits(self, vocab_size: int, records: Mapping[str, Any]) -> tuple[TokenSplit, TokenSplit]:
        """The training and the validation tokens; `records` says the bytes of text of each side."""
        train_bytes, held_out_bytes = (records[name]["bytes"] for name in ("train", "validation"))
        train = joined("training", self.train_paths, vocab_size, train_bytes)
        if self.validation_paths:
            return train, joined("validation", self.validation_paths, vocab_size, held_out_bytes)
        cut = int((1 - self.fraction) * len(train))
        return (
            TokenRange("training", train, 0, cut, train_bytes),
            TokenRange("validation", train, cut, len(train), held_out_bytes),
        )

    def verify(self, tokenizer: Tokenizer, held_out_text: Path, advance: Callable[[int], None]) -> dict[str, Any]:
        """What `splits` needs to know, after a look at every token; the held-out ones are written as text.

        UserError names file and offset of the first id outside the vocabulary.
        """
        for path in [*self.train_paths, *self.validation_paths]:
            TokenFile(path, tokenizer.vocab_size).verify(advance)
        none = {"bytes": 0}
        train, held_out = self.splits(tokenizer.vocab_size, {"train": none, "validation": none})
        text = TextBytes(tokenizer)
        with held_out_text.open("wb") as file:
            for tokens, before in portions(held_out, text.beginning):
                file.write(text.text(tokens, before))
        sides = {"train": train, "validation": held_out}
        return {
            name: {"bytes": sum(int(text.counts(*part).sum()) for part in portions(side, text.beginning))}
            | {"tokens": len(side)}
            for name, side in sides.items()
        }


def portions(split: TokenSplit, beginning: int) -> Iterator[tuple[Tokens, Tokens]]:
    """All of a sequence, in stretches of bounded size, each with the tokens one place before; `beginning`: what stands
    before the first."""
    last = beginning
    for start in range(0, len(split), VERIFY_TOKENS):
        tokens = split.read(start, min(start + VERIFY_TOKENS, len(split)))
        yield tokens, np.concatenate([np.array([last], dtype=np.uint32), tokens[:-1]])
        last = int(tokens[-1])


def joined(name: str, paths: Sequence[Path], vocab_size: int, text_bytes: int) -> JoinedTokens:
    files = OpenFiles()
    pieces = [TokenFile(path, vocab_size, files) for path in paths]
    return JoinedTokens(name, pieces, text_bytes, dtype_for(vocab_size))


def needs_tokenizer() -> ConfigError:
    """What to say where token files come with a tokenizer that would have to be learnt from text."""
    message = (
        "is needed to read token files: give the tokenizer that made them (its directory or file), or set "
        "tokenizer.kind to tiktoken or byte"
    )
    return ConfigError([Problem("tokenizer.path", message)])


def read_layout(path: Path, file: BinaryIO, size: int) -> Layout:
    """Where the ids lie in `file`, which is `size` bytes long. UserError names the file and the lengths."""
    if not size:
        raise UserError(f"The token file {path} is empty; give another file, or make it again.")
    if path.suffix == ".npy":
        return npy_layout(path, file, size)
    described = path.with_suffix(".json")
    if path.suffix == ".bin" and is_header(described):
        header = read_header(described, "bring it back as it was, or prepare the text again.")
        return checked(path, Layout(dtype_for(header.vocab_size), 0, header.count), size)
    if CHUNK.fullmatch(path.name):
        return headerless(path, np.dtype("<i4"), size)
    words = np.frombuffer(file.read(12), dtype="<i4", count=3 if size >= HEADER_BYTES else 0)
    if len(words) and words[0] == HEADER_MAGIC:
        if words[1] != HEADER_VERSION:
            raise UserError(f"The token file {path} has version {words[1]} of its header, only 1 is known; convert it.")
        return checked(path, Layout(np.dtype("<u2"), HEADER_BYTES, int(words[2])), size)
    return headerless(path, np.dtype("<u2"), size)


def npy_layout(path: Path, file: BinaryIO, size: int) -> Layout:
    """The layout in a .npy file's own header, which numpy reads without running anything."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except NOT_NPY as error:
        raise UserError(f"{path} is not a .npy file (its header cannot be read); give another file.") from error
    if len(shape) != 1 or dtype.kind not in "iu":
        raise UserError(f"{path} holds {dtype} of shape {shape}, not one row of token ids; give another file.")
    return checked(path, Layout(dtype, file.tell(), shape[0]), size)


def headerless(path: Path, dtype: np.dtype[np.integer], size: int) -> Layout:
    count, over = divmod(size, dtype.itemsize)
    if over:
        raise UserError(
            f"The token file {path} has {size:,} bytes, which is {over} more than {count:,} tokens of {dtype.itemsize} "
            "bytes; bring back the whole file."
        )
    return Layout(dtype, 0, count)


def checked(path: Path, layout: Layout, size: int) -> Layout:
    expected = layout.offset + layout.tokens * layout.dtype.itemsize
    if layout.tokens < 1 or size != expected:
        raise UserError(
            f"The token file {path} has {size:,} bytes where its header promises {expected:,} "
            f"({layout.tokens:,} tokens of {layout.dtype.itemsize} bytes); bring back the whole file."
        )
    return layout
