"""One id per byte of UTF-8: no training, and any text can be encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.tokenizer.base import BaseTokenizer, well_formed
from llm.tokenizer.cuts import FindCut, last_cut_between_characters
from llm.tokenizer.saved import read_special_tokens
from llm.tokenizer.special_tokens import number_special_tokens


class ByteTokenizer(BaseTokenizer):
    """Ids 0 to 255 are the bytes; the special tokens follow."""

    kind = "byte"

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        numbered = number_special_tokens(special_tokens, first_id=256)
        super().__init__([bytes([value]) for value in range(256)] + [b""] * len(numbered), numbered)

    @classmethod
    def from_saved(cls, record: Mapping[str, Any], directory: Path) -> ByteTokenizer:
        return cls(list(read_special_tokens(record)))

    def encode_ordinary(self, text: str) -> list[int]:
        return list(well_formed(text).encode())

    def find_cut(self) -> FindCut:
        return last_cut_between_characters

    def record(self) -> dict[str, Any]:
        return {"special_tokens": dict(self.special_tokens)}
