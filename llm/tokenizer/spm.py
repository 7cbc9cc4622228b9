"""SentencePiece: a BPE or unigram model over characters, with byte fallback (Kudo & Richardson 2018).

Trained like Llama 2's tokenizer: <unk> 0, <s> 1, </s> 2, 256 byte pieces, then the rest; digits are separate; text is
not normalized. Only the sign ▁ (U+2581), with which SentencePiece writes a space, is not restored by decoding.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm.errors import UserError, WrongUse, reason_of
from llm.limits import usable_cores
from llm.reader import read_bytes
from llm.tokenizer.base import BaseTokenizer, Ids, well_formed
from llm.tokenizer.cuts import FindCut, chunks, last_cut_between_words, no_cut

MODEL_FILE = "sentencepiece.model"
VOCAB_FILE = "sentencepiece.vocab"
SPACE = "▁"
MIN_VOCAB_SIZE = 3 + 256
MAX_MODEL_BYTES = 64 << 20

PROBES = {
    "line breaks become spaces or vanish": "a\nb",
    "tabs become spaces or vanish": "a\tb",
    "repeated spaces become one": "a  b",
    "spaces at the beginning and end vanish": " a ",
    "capital letters become lower case": "aAb",
    "characters are replaced by compatible ones (Ａ by A, ﬁ by fi, ① by 1)": "aＡﬁ①",
}
"""What normalization may do to a text -> a text that it changes if it does. The default of SentencePiece (0.2.3,
`nmt_nfkc`) does all of it but the lower case."""


class SentencePieceTokenizer(BaseTokenizer):
    """A SentencePiece model. The separator is its beginning-of-text id; both begin and end are stop ids.

    Most models add a space before every text (`dummy_prefix`). Decoding removes it at the start of a text and after a
    special token; `token_bytes` keeps it.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        """`model`: the content of a .model file; ValueError if it is not one."""
        import sentencepiece  # slow to import

        self.model_bytes = model
        if not model:  # the library reports this later, and on the terminal
            raise ValueError("it is empty, not a SentencePiece model")
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise ValueError("it is not a SentencePiece model") from None
        ids = range(self._model.vocab_size())
        self._pieces: list[str] = [self._model.id_to_piece(token_id) for token_id in ids]
        special_tokens = self._control_tokens()
        super().__init__([self._bytes_of(token_id) for token_id in ids], special_tokens)
        first = self._model.encode("a", out_type=str)[0]
        self.dummy_prefix = b" " if first.startswith(SPACE) else b""
        self.stop_ids = frozenset({self._model.bos_id(), self._model.eos_id()} - {-1})
        self._has_safe_cuts = self._pieces_stay_within_words() and self._encodes_leading_space()

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, algorithm: Literal["bpe", "unigram"] = "bpe"
    ) -> SentencePieceTokenizer:
        """Train on the lines of `texts`. A small text gives fewer than `vocab_size` pieces."""
        if vocab_size < MIN_VOCAB_SIZE:
            raise WrongUse(
                f"A SentencePiece vocabulary of {vocab_size} is too small; ask for {MIN_VOCAB_SIZE} or more."
            )
        import sentencepiece

        model = io.BytesIO()
        lines = [line for text in texts for line in well_formed(text).split("\n") if line.strip()]
        if not lines:
            raise UserError("There is no text to train a SentencePiece model on; choose a corpus that is not empty.")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type=algorithm,
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=1.0,
                split_digits=True,
                allow_whitespace_only_pieces=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=1 << 24,
                num_threads=usable_cores(),
                minloglevel=3,  # or it writes to the terminal
            )
        except RuntimeError as error:
            raise UserError(_training_error(str(error), vocab_size)) from error
        return cls(model.getvalue())

    @classmethod
    def from_file(cls, path: Path) -> SentencePieceTokenizer:
        try:
            return cls(read_bytes(path, MAX_MODEL_BYTES))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be loaded ({reason_of(error)}); name a .model file of SentencePiece."
            ) from error

    @classmethod
    def from_saved(cls, record: Mapping[str, Any], directory: Path) -> SentencePieceTokenizer:
        content = read_bytes(directory / MODEL_FILE, MAX_MODEL_BYTES)
        if hashlib.sha256(content).hexdigest() != record["model_sha256"]:
            raise ValueError(f"{MODEL_FILE} is not the model it was saved with")
        return cls(content)

    def encode_ordinary(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(well_formed(text))
        return ids

    def encode_batch(self, texts: Sequence[str], *, threads: int = 0) -> list[Ids]:
        texts = [well_formed(text) for text in texts]
        encoded = self._model.encode(texts, num_threads=threads or usable_cores())
        return [np.array(ids, dtype=np.uint32) for ids in encoded]

    def encode_stream(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        for number, chunk in enumerate(chunks(pieces, self.find_cut())):
            # Each later chunk begins with the space where it was cut, which the dummy prefix replaces.
            yield self.encode_ordinary(chunk[1:] if number and self.dummy_prefix else chunk)

    def find_cut(self) -> FindCut:
        return last_cut_between_words if self._has_safe_cuts else no_cut

    def text_changes(self, *, bytes_known: bool = True) -> str:
        if not self.rewrites:
            return ""
        counted = (
            "Bits per byte count the bytes of the original text."
            if bytes_known
            else "Bits per byte count the bytes of the rewritten text, because token files do not hold the original."
        )
        return (
            f"The SentencePiece model rewrites text before it splits it: {', '.join(self.rewrites)}. The model "
            f"cannot learn what is lost. {counted}"
        )

    def prompt_changes(self, prompt: str) -> str:
        text = self._without_special_tokens(prompt)
        if not self.rewrites or self._normalized(text) == well_formed(text):
            return ""
        return f"The SentencePiece model rewrites the prompt: {', '.join(self.rewrites)}."

    @cached_property
    def rewrites(self) -> tuple[str, ...]:
        """What the model's normalization does to text, in words; empty if it does nothing."""
        return tuple(name for name, probe in PROBES.items() if self._normalized(probe) != probe)

    def _normalized(self, text: str) -> str:
        """`text` after normalization, without the dummy prefix."""
        normalized = str(self._model.normalize(well_formed(text))).replace(SPACE, " ")
        return normalized.removeprefix(self.dummy_prefix.decode())

    def record(self) -> dict[str, Any]:
        return {
            "special_tokens": dict(self.special_tokens),
            "model_sha256": hashlib.sha256(self.model_bytes).hexdigest(),
        }

    def files(self) -> dict[str, bytes]:
        lines = [f"{piece}\t{self._model.get_score(token_id):g}\n" for token_id, piece in enumerate(self._pieces)]
        return {MODEL_FILE: self.model_bytes, VOCAB_FILE: "".join(lines).encode()}

    def _pieces_stay_within_words(self) -> bool:
        """Whether a space only begins a piece. A piece such as "of▁the" leaves no safe place to cut."""
        return not any(SPACE in piece.lstrip(SPACE) for piece in self._pieces)

    def _encodes_leading_space(self) -> bool:
        """Whether a chunk that begins with a space can be encoded: by the dummy prefix, or untrimmed."""
        return bool(self.dummy_prefix) or bool(self._model.encode(" a") != self._model.encode("a"))

    def _control_tokens(self) -> dict[str, int]:
        """Begin and end of text, then the other control pieces of the model."""
        ids = [self._model.bos_id(), self._model.eos_id(), *range(len(self._pieces))]
        controls = [token_id for token_id in ids if token_id >= 0 and self._model.is_control(token_id)]
        return {self._pieces[token_id]: token_id for token_id in controls}

    def _bytes_of(self, token_id: int) -> bytes:
        piece = self._pieces[token_id]
        if self._model.is_control(token_id) or self._model.is_unused(token_id):
            return b""
        if self._model.is_unknown(token_id):
            return "\ufffd".encode()
        if self._model.is_byte(token_id):  # written <0x0A>
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()


def _training_error(error: str, vocab_size: int) -> str:
    if "smaller than required_chars" in error:
        least = error.split(" vs ")[1].split(".")[0]
        return f"The text has too many different characters for a vocabulary of {vocab_size}; ask for {least} or more."
    return f"SentencePiece cannot be trained on this text ({error}); try another corpus or vocabulary size."
