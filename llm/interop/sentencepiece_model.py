"""A SentencePiece .model file, a protocol buffer (sentencepiece_model.proto), read and written without protobuf."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of ModelProto
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # SentencePiece.Type
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType


@dataclass
class SentencePieceModel:
    """`pieces` are (text, score, type)."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    model_type: int = UNIGRAM


def parse_model(content: bytes) -> SentencePieceModel:
    """The parts of a .model file that other formats need. ValueError where it is cut off."""
    model = SentencePieceModel()
    for number, value in read_fields(content):
        if number == PIECES and isinstance(value, bytes):
            parts = dict(read_fields(value))
            text, score = parts.get(1, b""), parts.get(2, bytes(4))
            assert isinstance(text, bytes)
            assert isinstance(score, bytes)
            model.pieces.append((text.decode(), struct.unpack("<f", score)[0], int(parts.get(3, NORMAL))))
        elif number == TRAINER and isinstance(value, bytes):
            model.model_type = int(dict(read_fields(value)).get(3, UNIGRAM))
    return model


def read_fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer message: varints as int, all others as bytes."""
    place = 0
    while place < len(content):
        key, place = read_varint(content, place)
        kind = key & 7
        if kind == 0:
            value, place = read_varint(content, place)
            yield key >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError("it is not a SentencePiece model")
        size, place = read_varint(content, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        if place + size > len(content):
            raise ValueError("it is cut off")
        yield key >> 3, content[place : place + size]
        place += size


def read_varint(content: bytes, place: int) -> tuple[int, int]:
    """A variable-length integer and the place after it."""
    value = shift = 0
    while True:
        if place >= len(content):
            raise ValueError("it is cut off")
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def dump_model(pieces: Sequence[tuple[str, float, int]]) -> bytes:
    """A BPE model with the ids of Llama 2 (<unk> 0, <s> 1, </s> 2) and bytes to fall back on. It puts a space before
    every text, and changes nothing else."""
    content = b""
    for text, score, kind in pieces:
        piece = text_field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + number_field(3, kind)
        content += text_field(PIECES, piece)
    trainer = number_field(3, BPE) + number_field(4, len(pieces)) + number_field(35, 1)
    trainer += number_field(40, 0) + number_field(41, 1) + number_field(42, 2) + number_field(43, (1 << 64) - 1)
    normalizer = text_field(1, b"identity") + number_field(3, 1) + number_field(4, 0) + number_field(5, 1)
    return content + text_field(TRAINER, trainer) + text_field(NORMALIZER, normalizer)


def text_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def varint(value: int) -> bytes:
    content = b""
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])
