"""Tokenized conversations: shards of ids, and of marks that say where each starts and which tokens are learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.data.text.conversations import Conversation
from llm.data.tokens.shards import BLOCK_TOKENS, ShardedTokens, ShardWriter
from llm.errors import UserError
from llm.tokenizer import Tokenizer
from llm.tokenizer.base import well_formed

COUNTED, START = 1, 2
"""Bits of a mark: the token is learned; the token is the first of a conversation."""
MARK_VALUES = 4

Int64 = NDArray[np.int64]


class ConversationWriter:
    """Writes one split: shards `STEM-00000` of ids and shards `STEM_marks-00000` of marks, of equal lengths."""

    def __init__(self, folder: Path, stem: str, tokenizer: Tokenizer, *, last_answer_only: bool = False) -> None:
        """`last_answer_only`: of a conversation, only the last answer is learned."""
        vocabulary = tokenizer.fingerprint()
        self.tokenizer, self.last_answer_only = tokenizer, last_answer_only
        self.ids = ShardWriter(folder, stem, vocab_size=tokenizer.vocab_size, vocabulary=vocabulary)
        self.marks = ShardWriter(folder, f"{stem}_marks", vocab_size=MARK_VALUES, vocabulary=vocabulary)
        self.conversations = self.text_bytes = 0

    def write(self, conversations: Sequence[Conversation]) -> None:
        """Append conversations. Their texts are encoded together, on several threads where the tokenizer allows it."""
        template, reserved = self.tokenizer.chat_template, tuple(self.tokenizer.special_tokens)
        assert template is not None, "the tokenizer has a chat template"
        pieces = [template.pieces(conversation, reserved=reserved) for conversation in conversations]
        texts = [piece.text for row in pieces for piece in row if not piece.is_special]
        encoded = (ids.tolist() for ids in self.tokenizer.encode_batch(texts))
        for row in pieces:
            ids: list[int] = []
            marks: list[int] = []
            for piece in row:
                new = [self.tokenizer.special_tokens[piece.text]] if piece.is_special else next(encoded)
                ids += new
                marks += [COUNTED * piece.is_counted] * len(new)
            if self.last_answer_only:
                before = len(marks) - marks[::-1].index(0)
                marks[:before] = [0] * before
            marks[0] |= START
            self.ids.write(ids)
            self.marks.write(marks)
        self.conversations += len(conversations)
        self.text_bytes += sum(len(well_formed(text).encode()) for text in texts)

    def close(self) -> None:
        self.ids.close()
        self.marks.close()

    def record(self) -> dict[str, Any]:
        """The entry of this split in the index."""
        return {
            **self.ids.record(),
            "marks": self.marks.names,
            "tokens": self.ids.total,
            "bytes": self.text_bytes,
            "conversations": self.conversations,
        }


class ConversationTokens(ShardedTokens):
    """The conversations that a ConversationWriter wrote, as one sequence of tokens with a mark for each."""

    def __init__(self, name: str, paths: Sequence[Path], mark_paths: Sequence[Path], text_bytes: int) -> None:
        super().__init__(name, paths, text_bytes)
        self.marks = ShardedTokens(name, mark_paths, text_bytes)
        if len(self.marks) != len(self):
            raise ValueError(f"{len(self.marks)} marks for {len(self)} tokens")

    def read_marks(self) -> NDArray[np.uint8]:
        """The marks of all tokens, one byte each."""
        blocks = range(0, len(self), BLOCK_TOKENS)
        parts = [self.marks.read(start, min(start + BLOCK_TOKENS, len(self))).astype(np.uint8) for start in blocks]
        return np.concatenate(parts)


class Spans(NamedTuple):
    """The conversations to train on: tokens [start, start + length) of a split, `counted` of which are learned.

    Conversations longer than the context are cut after their last whole answer (`cut` of them), or left out where not
    even the first answer fits (`dropped`). int64 (conversations,) each.
    """

    starts: Int64
    lengths: Int64
    counted: Int64
    cut: int
    dropped: int


def conversation_spans(marks: NDArray[np.uint8], seq_len: int) -> Spans:
    """The conversations with at most `seq_len` inputs, that is `seq_len` + 1 tokens."""
    counted = (marks & COUNTED).astype(bool)
    starts = np.flatnonzero(marks & START).astype(np.int64)
    ends = np.append(starts[1:], len(marks))
    answer_ends = np.flatnonzero(counted & ~np.append(counted[1:], False)) + 1
    limit = np.minimum(ends, starts + seq_len + 1)
    last = np.searchsorted(answer_ends, limit, side="right") - 1
    stops = np.where(limit == ends, ends, answer_ends[np.maximum(last, 0)] if len(answer_ends) else starts)
    fits = (last >= 0) & (stops > starts)
    totals = np.concatenate([[0], np.cumsum(counted)])
    kept, stop = starts[fits], stops[fits]
    return Spans(kept, stop - kept, totals[stop] - totals[kept], int((fits & (stops < ends)).sum()), int((~fits).sum()))


def describe_cuts(spans: Spans, seq_len: int) -> list[str]:
    """Sentences about the conversations that are longer than the context."""
    found = []
    if spans.cut:
        found.append(f"{spans.cut:,} conversations are longer than {seq_len:,} tokens: each ends after a whole answer.")
    if spans.dropped:
        found.append(
            f"{spans.dropped:,} conversations were left out: their first answer does not end within {seq_len:,} tokens "
            "(model.context)."
        )
    return found


def check_conversations(split: ConversationTokens, seq_len: int) -> list[str]:
    """Warnings about conversations longer than `seq_len`; UserError if none fits."""
    spans = conversation_spans(split.read_marks(), seq_len)
    if not len(spans.starts):
        raise UserError(
            f"No {split.name} conversation fits into {seq_len:,} tokens; give shorter ones, or use a model with a "
            "longer context."
        )
    return describe_cuts(spans, seq_len)
