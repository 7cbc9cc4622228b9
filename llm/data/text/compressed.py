"""Decompression of gzip, bzip2, xz and Zstandard files, recognized by their first bytes."""

from __future__ import annotations

import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

from llm.errors import UserError

MAGIC_BYTES = 16
CHUNK_BYTES = 1 << 13  # of Zstandard input at a time: a chunk can expand by a factor of thousands
BUFFER_BYTES = 1 << 17
MAX_WINDOW = 1 << 31
EXPANSION = 4  # bytes of text per compressed byte, about
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


class Readable(Protocol):
    """The common interface of the decompressors."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end."""


def compression_of(beginning: bytes) -> str:
    """gzip, bzip2, xz or zstd, from the first `MAGIC_BYTES` of a file; "" for other files."""
    if beginning.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if beginning.startswith(b"BZh") and beginning[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if beginning.startswith(b"\xfd7zXZ\0"):
        return "xz"
    skippable = beginning[1:4] == b"\x2a\x4d\x18" and 0x50 <= beginning[0] <= 0x5F
    return "zstd" if skippable or beginning.startswith(b"\x28\xb5\x2f\xfd") else ""


def plain_name(path: Path) -> str:
    """The name of a file without the suffix of its compression."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def read_content(path: Path, file: BinaryIO) -> BinaryIO:
    """The content of `file`, decompressed if it is compressed. Closing the result closes `file`."""
    kind = compression_of(file.read(MAGIC_BYTES))
    file.seek(0)
    return io.BufferedReader(Decompressed(path, file, kind), BUFFER_BYTES) if kind else file


class Decompressed(io.RawIOBase):
    """The content of a compressed file. Reading raises a UserError that names the file if it is damaged
    or truncated."""

    def __init__(self, path: Path, file: BinaryIO, kind: str) -> None:
        self._path, self._file, self._kind = path, file, kind
        self._source = open_decompressor(file, kind)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(len(buffer))
        except DAMAGED as error:
            raise UserError(
                f"The compressed file {self._path} ({self._kind}) is damaged or truncated ({error}); restore "
                "the whole file."
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_decompressor(file: IO[bytes], kind: str) -> Readable:
    """A reader of `file`, which is compressed in the format `kind`."""
    if kind == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=file, mode="rb")
    if kind == "bzip2":
        import bz2

        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if kind == "xz" else ZstdFile(file)


class ZstdFile:
    """A sequence of Zstandard frames, as `zstd` and `pzstd` write them.

    The stream reader of the zstandard package does not report a truncated frame, so this class checks frame ends.
    """

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file = file
        self._error = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._frame: Any = None
        self._waiting = memoryview(b"")
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end. ValueError or EOFError if the data is damaged or truncated."""
        while not self._waiting:
            chunk = self._rest or self._file.read(CHUNK_BYTES)
            self._rest = b""
            if not chunk:
                if self._frame is not None:
                    raise EOFError("the last frame has no end")
                return b""
            self._decompress(chunk)
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return bytes(data)

    def _decompress(self, chunk: bytes) -> None:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        try:
            self._waiting = memoryview(self._frame.decompress(chunk))
        except self._error as error:
            raise ValueError(str(error)) from error
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
