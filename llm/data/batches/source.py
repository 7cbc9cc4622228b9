"""The training batches of a configuration, and the batches of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm.config.resolve import resolve_seq_len
from llm.config.schema import RunConfig
from llm.data.batches.packing import PackedBatches, PackedRows, Packing
from llm.data.batches.pairs import PairRows
from llm.data.batches.streaming import StreamedBatches
from llm.data.batches.windows import Batches, evaluation_windows, read_windows
from llm.data.tokens.conversation_tokens import ConversationTokens
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.shards import TokenSplit

Arrays = tuple[NDArray[Any], ...]
"""The arguments of the loss, one entry per row each: inputs, targets (-1: ignored), and what a stage adds."""


class BatchSource(Protocol):
    """Training batches, one after another."""

    def batch(self, i: int) -> Arrays:
        """Batch i of this rank."""

    def num_targets(self, i: int) -> int:
        """The number of targets of batch i over all ranks that are not ignored; 0 if none is ignored."""

    def cursor(self, i: int) -> Any:
        """The start of batch i as plain JSON, to resume from; None if i is enough."""


def batch_source(
    dataset: Dataset,
    config: RunConfig,
    *,
    rows: int,
    seq_len: int,
    start: int = 0,
    cursor: Any = None,
    rank: int = 0,
    ranks: int = 1,
    pairs: PairRows | None = None,
) -> BatchSource:
    """The training batches of `config` from batch `start`, whose cursor is `cursor`, with `rows` rows over all ranks.

    Each rank gets its share of the rows of every batch. `pairs` are the preferences to train on, with their reference.
    """
    share = {"rows": rows, "rank": rank, "ranks": ranks}
    if isinstance(dataset.train, ConversationTokens):
        return PackedBatches(
            pairs or PackedRows(dataset.train, seq_len, config.tune.packing),
            seed=config.train.seed,
            order=config.data.order,
            drop_last=config.data.drop_last,
            **share,
        )
    if dataset.stream is not None:
        return StreamedBatches(
            dataset.stream,
            dataset.tokenizer,
            config.data.boundary,
            seq_len=seq_len,
            streams=config.data.streams,
            start=start,
            cursor=cursor,
            **share,
        )
    return Batches(
        dataset.train,
        seq_len=seq_len,
        seed=config.train.seed,
        order=config.data.order,
        stride=config.data.stride,
        drop_last=config.data.drop_last,
        **share,
    )


def epoch_tokens(dataset: Dataset, config: RunConfig) -> int:
    """The tokens of one pass over the training data; of conversations: of their packed rows, padding included."""
    if not isinstance(dataset.train, ConversationTokens):
        return len(dataset.train)
    seq_len = resolve_seq_len(config.train, config.model)
    if config.tune.stage == "dpo":
        return PairRows(dataset.train, seq_len).rows * seq_len
    return PackedRows(dataset.train, seq_len, config.tune.packing).rows * seq_len


def evaluation_batches(
    split: TokenSplit, packing: Packing, *, seq_len: int, rows: int, batches: int
) -> tuple[int, Callable[[int], Arrays]]:
    """The number of rows, and what reads a batch of `rows` of them by its number. They are the same `batches` at every
    call, evenly spread over the split (0: all of it)."""
    if isinstance(split, ConversationTokens):
        packed = PackedRows(split, seq_len, packing)
        count = min(batches * rows, packed.rows) or packed.rows
        numbers = np.arange(count, dtype=np.int64) * packed.rows // count
        return count, lambda index: packed.read(numbers[index * rows : (index + 1) * rows])
    starts = evaluation_windows(split, seq_len, batches * rows)
    return len(starts), lambda index: read_windows(split, starts[index * rows : (index + 1) * rows], seq_len)
