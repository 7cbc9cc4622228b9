"""How well a model predicts held-out text: loss, perplexity, bits per byte."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch

from llm.data.batches.packing import Packing
from llm.data.batches.source import evaluation_batches
from llm.data.tokens.shards import TokenSplit
from llm.device import Plan
from llm.errors import UserError
from llm.events import Progress
from llm.model.loss import IGNORE_INDEX
from llm.model.packed import PackedTransformer
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.tokenizer.textbytes import TextBytes
from llm.training.distributed import Ranks

SECONDS_BETWEEN_PROGRESS = 0.5


@dataclass(frozen=True)
class Evaluation:
    """Result on `tokens` targets. `loss` is nats per token, weighted by tokens; special tokens count in it, but
    neither their nats nor any bytes enter `bits_per_byte`, nor the space that SentencePiece puts before a text. Where
    a tokenizer rewrites text, the bytes are those of the text itself. It therefore compares across tokenizers."""

    loss: float
    bits_per_byte: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@torch.no_grad()
def evaluate(
    model: Transformer | PackedTransformer,
    split: TokenSplit,
    tokenizer: Tokenizer,
    plan: Plan,
    *,
    seq_len: int,
    batch_size: int,
    batches: int,
    packing: Packing = "documents",
    stage: str = "Evaluating",
    ranks: Ranks | None = None,
) -> Generator[Progress, None, Evaluation]:
    """Evaluate `model` on `batches` of fixed windows spread over the whole split, the same at every call (0: on all of
    it, window after window). Draws nothing from any random generator, and leaves the model in its mode, also when it is
    closed early. Of conversations, only the answers count; `packing` is `tune.packing`. Yields progress about twice a
    second, under the name of `stage`, and returns the result.

    Several `ranks` share the batches, and all get the same result. They must all run to the end.
    """
    ranks = ranks or Ranks()
    rows, read_batch = evaluation_batches(split, packing, seq_len=seq_len, rows=batch_size, batches=batches)
    last_progress = time.monotonic()
    text = TextBytes(tokenizer)
    nats = torch.zeros((), dtype=torch.float64)
    text_nats = torch.zeros((), dtype=torch.float64)
    tokens = text_bytes = read = 0
    was_training = model.training
    model.eval()
    try:
        for index, is_own in share_batches(math.ceil(rows / batch_size), ranks):
            inputs, targets, *positions = read_batch(index)
            tokens_in, wanted, *places = (
                torch.from_numpy(array).to(plan.device) for array in (inputs, targets, *positions)
            )
            with plan.autocast():
                losses = model.loss(tokens_in, wanted, reduction="none", positions=places[0] if places else None)
            if not is_own:
                continue
            is_counted = targets != IGNORE_INDEX
            losses = losses.cpu().double()[torch.from_numpy(is_counted)]  # summed here: not every device has float64
            before, targets = inputs[is_counted], targets[is_counted]
            nats += losses.sum()
            text_nats += losses[torch.from_numpy(text.lengths[targets] > 0)].sum()
            text_bytes += int(text.counts(targets, before).sum())
            tokens += len(targets)
            read += len(inputs)
            if time.monotonic() - last_progress > SECONDS_BETWEEN_PROGRESS:
                last_progress = time.monotonic()
                done = min(rows, read * ranks.world_size) * seq_len
                yield Progress(stage=stage, done=done, total=rows * seq_len, unit="tokens")
    finally:
        model.train(was_training)
        reshard: Callable[[], object] | None = getattr(model, "reshard", None)
        if reshard is not None:  # FSDP2 keeps the weights outside of blocks after a forward pass
            reshard()
    counted = torch.tensor([float(nats), float(text_nats), text_bytes, tokens], dtype=torch.float64)
    all_nats, all_text_nats, all_bytes, all_tokens = ranks.sum(counted).tolist()
    if all_tokens == 0:
        raise UserError("the held-out text is shorter than one window; give more text or a larger validation_fraction.")
    return Evaluation(
        loss=all_nats / all_tokens,
        bits_per_byte=all_text_nats / (math.log(2) * all_bytes * split.bytes_scale) if all_bytes else math.nan,
        tokens=int(all_tokens),
    )


def share_batches(batches: int, ranks: Ranks) -> Iterator[tuple[int, bool]]:
    """The batches that this rank evaluates, by number, and whether they count.

    All ranks evaluate equally many, since under FSDP2 each forward pass is a collective; the last ones may evaluate a
    batch that does not count.
    """
    for start in range(0, batches, ranks.world_size):
        place = start + ranks.rank
        yield (place, True) if place < batches else (0, False)
