"""The training batches of a configuration."""

from __future__ import annotations

from typing import Any, Protocol

from llm.config.schema import RunConfig
from llm.data.batches.streaming import StreamedBatches
from llm.data.batches.windows import Batches, Int64
from llm.data.tokens.dataset import Dataset


class BatchSource(Protocol):
    """Training batches, one after another."""

    def batch(self, i: int) -> tuple[Int64, Int64]:
        """Batch i: inputs and targets, int64 (rows, seq_len)."""

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
) -> BatchSource:
    """The training batches of `config` from batch `start`, whose cursor is `cursor`, with `rows` rows over all ranks.

    Each rank gets its share of the rows of every batch.
    """
    if dataset.stream is not None:
        return StreamedBatches(
            dataset.stream,
            dataset.tokenizer,
            config.data.boundary,
            rows=rows,
            seq_len=seq_len,
            streams=config.data.streams,
            start=start,
            cursor=cursor,
            rank=rank,
            ranks=ranks,
        )
    return Batches(
        dataset.train,
        rows=rows,
        seq_len=seq_len,
        seed=config.train.seed,
        order=config.data.order,
        stride=config.data.stride,
        drop_last=config.data.drop_last,
        rank=rank,
        ranks=ranks,
    )
