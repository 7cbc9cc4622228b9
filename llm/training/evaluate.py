"""How well a model predicts held-out text: loss, perplexity, bits per byte."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.data.batches.packing import Packing
from llm.data.batches.source import evaluation_batches
from llm.data.tokens.shards import TokenSplit
from llm.device import Plan
from llm.errors import UserError
from llm.events import Progress
from llm.model.loss import IGNORE_INDEX
from llm.model.packed import InferenceModel
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

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of the events."""
        return {"validation_loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


@dataclass
class Totals:
    """Sums over evaluated targets: of their nats, of the nats and bytes of those that are text, and their number."""

    nats: float = 0.0
    text_nats: float = 0.0
    text_bytes: float = 0.0
    tokens: float = 0.0

    def add(self, losses: Tensor, inputs: NDArray[np.int64], targets: NDArray[np.int64], text: TextBytes) -> None:
        """Add a batch: the loss (B, T) of each target (B, T) after its input; targets of −1 do not count."""
        is_counted = targets != IGNORE_INDEX
        losses = losses.cpu().double()[torch.from_numpy(is_counted)]  # summed here: not every device has float64
        before, targets = inputs[is_counted], targets[is_counted]
        self.nats += float(losses.sum())
        self.text_nats += float(losses[torch.from_numpy(text.lengths[targets] > 0)].sum())
        self.text_bytes += int(text.counts(targets, before).sum())
        self.tokens += len(targets)

    def over(self, ranks: Ranks) -> Totals:
        """The sums over all ranks."""
        return Totals(*ranks.sum(torch.tensor(astuple(self), dtype=torch.float64)).tolist())

    def evaluation(self, bytes_scale: float) -> Evaluation:
        """UserError where there is no target."""
        if not self.tokens:
            raise UserError(
                "the held-out text is shorter than one window; give more text or a larger validation_fraction."
            )
        bits = self.text_nats / (math.log(2) * self.text_bytes * bytes_scale) if self.text_bytes else math.nan
        return Evaluation(self.nats / self.tokens, bits, int(self.tokens))


@torch.no_grad()
def evaluate(
    model: InferenceModel,
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
    text, totals, read = TextBytes(tokenizer), Totals(), 0
    with evaluation_mode(model):
        for index, is_own in share_batches(math.ceil(rows / batch_size), ranks):
            inputs, targets, *positions = read_batch(index)
            arrays = (torch.from_numpy(array).to(plan.device) for array in (inputs, targets, *positions))
            with plan.autocast():
                losses = token_losses(model, *arrays)
            if is_own:
                totals.add(losses, inputs, targets, text)
                read += len(inputs)
            if time.monotonic() - last_progress > SECONDS_BETWEEN_PROGRESS:
                last_progress = time.monotonic()
                done = min(rows, read * ranks.world_size) * seq_len
                yield Progress(stage=stage, done=done, total=rows * seq_len, unit="tokens")
    return totals.over(ranks).evaluation(split.bytes_scale)


def token_losses(model: InferenceModel, inputs: Tensor, targets: Tensor, positions: Tensor | None = None) -> Tensor:
    """The loss (B, T) of each target, in nats."""
    return model.loss(inputs, targets, reduction="none", positions=positions)


@contextmanager
def evaluation_mode(model: InferenceModel) -> Iterator[None]:
    """The model in evaluation mode within the block, and then in the mode that it had."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        reshard: Callable[[], object] | None = getattr(model, "reshard", None)
        if reshard is not None:  # FSDP2 keeps the weights outside of blocks after a forward pass
            reshard()


def share_batches(batches: int, ranks: Ranks) -> Iterator[tuple[int, bool]]:
    """The batches that this rank evaluates, by number, and whether they count.

    All ranks evaluate equally many, since under FSDP2 each forward pass is a collective; the last ones may evaluate a
    batch that does not count.
    """
    for start in range(0, batches, ranks.world_size):
        place = start + ranks.rank
        yield (place, True) if place < batches else (0, False)
