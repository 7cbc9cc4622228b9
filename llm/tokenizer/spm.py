"""SentencePiece: a BPE or unigram model over characters, with bytes to fall back on (Kudo & Richardson 2018).

Trained as Llama 2's tokenizer was and as the TinyStories models use it: <unk> 0, <s> 1, </s> 2, then 256 byte pieces,
then the rest; digits apart; text left as it is. The one text that does not come back is the sign ▁ (U+2581), by which
SentencePiece writes a space.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llm.errors import UserError, WrongUse
from llm.limits import usable_cores
from llm.reader import read_bytes
from llm.tokenizer.base import BaseTokenizer, well_formed
from llm.tokenizer.cuts import FindCut, chunks, last_cut_between_words, no_cut

MODEL_FILE = "sentencepiece.model"
VOCAB_FILE = "sentencepiece.vocab"
SPACE = "▁"
LEAST_VOCAB = 3 + 256
MAX_MODEL_BYTES = 64 << 20

PROBES = {
    "line breaks become spaces or vanish": "a\nb",
    "tabs become spaces or vanish": "a\tb",
    "several spaces in a row become one": "a  b",
    "spaces at the beginning and the end vanish": " a ",
    "capital letters become small": "aAb",
    "characters are replaced by compatible ones, as Ａ by A, ﬁ by fi, ① by 1": "aＡﬁ①",
}
"""What normalization may do to a text -> a text on which it shows."""


class SentencePieceTokenizer(BaseTokenizer):
    """A SentencePiece model. The separator is its beginning-of-text id, and both begin and end stop a generation.

    Most models put a space before every text (`dummy_prefix`), which decoding takes away at the start of a text and
    after a special token; `token_bytes` keeps it.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        """`model`: the content of a .model file; ValueError when it is not one."""
        import sentencepiece  # slow to import

        self._model_bytes = model
        if not model:  # the library takes it for none given, and complains later, on the terminal
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
        self._has_safe_cuts = self._keeps_to_words() and self._keeps_the_space_of_a_cut()

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, algorithm: Literal["bpe", "unigram"] = "bpe"
    ) -> SentencePieceTokenizer:
        """Train on the lines of `texts`. A text too small for `vocab_size` gives as many pieces as it can."""
        if vocab_size < LEAST_VOCAB:
            raise WrongUse(f"A SentencePiece vocabulary of {vocab_size} is too small; ask for {LEAST_VOCAB} or more.")
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
                minloglevel=3,  # it writes to the terminal itself
            )
        except RuntimeError as error:
            raise UserError(_explain(str(error), vocab_size)) from error
        return cls(model.getvalue())

    @classmethod
    def from_file(cls, path: Path) -> SentencePieceTokenizer:
        try:
            return cls(read_bytes(path, MAX_MODEL_BYTES))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be loaded ({error}); name a .model file of SentencePiece.") from error

    @classmethod
    def from_saved(cls, record: Mapping[str, Any], directory: Path) -> SentencePieceTokenizer:
        content = read_bytes(directory / MODEL_FILE, MAX_MODEL_BYTES)
        if hashlib.sha256(content).hexdigest() != record["model_sha256"]:
            raise ValueError(f"{MODEL_FILE} is not the model that was saved with it")
        return cls(content)

    def encode_ordinary(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(well_formed(text))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._model.encode([well_formed(text) for text in texts], num_threads=usable_cores())
        return ids

    def encode_stream(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        for number, chunk in enumerate(chunks(pieces, self.find_cut())):
            # Each later chunk begins with the space at which it was cut: the dummy prefix stands in for it.
            yield self.encode_ordinary(chunk[1:] if number and self.dummy_prefix else chunk)

    def find_cut(self) -> FindCut:
        return last_cut_between_words if self._has_safe_cuts else no_cut

    def text_changes(self, *, bytes_known: bool = True) -> str:
        if not self.rewrites:
            return ""
        counted = (
            "Bits per byte count the bytes of the text itself."
            if bytes_known
            else "Bits per byte count the bytes of the text as rewritten, as token files do not hold the text itself."
        )
        return (
            f"The SentencePiece model rewrites text before it splits it: {', '.join(self.rewrites)}. The model never "
            f"sees what is lost, and cannot write it. {counted}"
        )

    def prompt_changes(self, prompt: str) -> str:
        text = self._special.sub("", prompt) if self._special else prompt
        if not self.rewrites or self._normalized(text) == well_formed(text):
            return ""
        return f"The SentencePiece model rewrites the prompt before it reads it: {', '.join(self.rewrites)}."

    @cached_property
    def rewrites(self) -> tuple[str, ...]:
        """What the model's normalization does to text, in words; empty where it leaves text as it is."""
        return tuple(name for name, probe in PROBES.items() if self._normalized(probe) != probe)

    def _normalized(self, text: str) -> str:
        """`text` as the model sees it: after normalization, without the space that is put before it."""
        normalized = str(self._model.normalize(well_formed(text))).replace(SPACE, " ")
        return normalized.removeprefix(self.dummy_prefix.decode())

    def record(self) -> dict[str, Any]:
        return {
            "special_tokens": dict(self.special_tokens),
            "model_sha256": hashlib.sha256(self._model_bytes).hexdigest(),
        }

    def files(self) -> dict[str, bytes]:
        lines = [f"{piece}\t{self._model.get_score(token_id):g}\n" for token_id, piece in enumerate(self._pieces)]
        return {MODEL_FILE: self._model_bytes, VOCAB_FILE: "".join(lines).encode()}

    def _keeps_to_words(self) -> bool:
        """Whether a space always begins a piece; "of▁the" may span any of them, and no place would be safe to cut."""
        return not any(SPACE in piece.lstrip(SPACE) for piece in self._pieces)

    def _keeps_the_space_of_a_cut(self) -> bool:
        """Whether a chunk that begins with a space can be encoded: by the dummy prefix, or untrimmed."""
        return bool(self.dummy_prefix) or bool(self._model.encode(" a") != self._model.encode("a"))

    def _control_tokens(self) -> dict[str, int]:
        """Begin and end of text first, then the other control pieces of the model."""
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


def _explain(error: str, vocab_size: int) -> str:
    if "smaller than required_chars" in error:
        least = error.split(" vs ")[1].split(".")[0]
        return f"The text has too many different characters for a vocabulary of {vocab_size}; ask for {least} or more."
    return f"SentencePiece cannot be trained on this text ({error}); try another corpus or vocabulary size."
