"""One id per character of the training text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.tokenizer.base import BaseTokenizer, well_formed
from llm.tokenizer.cuts import FindCut, last_cut_between_characters
from llm.tokenizer.saved import read_special_tokens
from llm.tokenizer.special_tokens import number_special_tokens

UNKNOWN = "\ufffd"
NAMED_AT_MOST = 8


class CharTokenizer(BaseTokenizer):
    """The ids are the characters in the order of their code points, then one for all other characters, then the special
    tokens. Any text can be encoded; the id of other characters decodes to U+FFFD.
    """

    kind = "char"

    def __init__(self, alphabet: Iterable[str], special_tokens: Sequence[str] = ()) -> None:
        self.alphabet = "".join(sorted(set(alphabet)))
        self.unknown_id = len(self.alphabet)
        self._ids = {character: index for index, character in enumerate(self.alphabet)}
        numbered = number_special_tokens(special_tokens, first_id=self.unknown_id + 1)
        characters = [character.encode() for character in self.alphabet + UNKNOWN]
        super().__init__(characters + [b""] * len(numbered), numbered)

    @classmethod
    def train(cls, texts: Iterable[str], special_tokens: Sequence[str] = ()) -> CharTokenizer:
        """A tokenizer for the characters of `texts`."""
        alphabet: set[str] = set()
        for text in texts:
            alphabet.update(well_formed(text))
        return cls(alphabet, special_tokens)

    @classmethod
    def from_saved(cls, record: Mapping[str, Any], directory: Path) -> CharTokenizer:
        alphabet = record["alphabet"]
        if not isinstance(alphabet, str):
            raise ValueError("alphabet is not a text")
        return cls(alphabet, list(read_special_tokens(record)))

    def encode_ordinary(self, text: str) -> list[int]:
        ids, unknown = self._ids, self.unknown_id
        return [ids.get(character, unknown) for character in well_formed(text)]

    def prompt_changes(self, prompt: str) -> str:
        text = well_formed(self._without_special_tokens(prompt))
        unknown = list(dict.fromkeys(character for character in text if character not in self._ids))
        if not unknown:
            return ""
        named = ", ".join(map(repr, unknown[:NAMED_AT_MOST])) + (", …" if len(unknown) > NAMED_AT_MOST else "")
        what = "1 character" if len(unknown) == 1 else f"{len(unknown)} different characters"
        return (
            f"The prompt has {what} that the training text does not have ({named}): each becomes the unknown token; "
            "use other characters."
        )

    def find_cut(self) -> FindCut:
        return last_cut_between_characters

    def record(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet, "special_tokens": dict(self.special_tokens)}
