"""Evaluate a model on held-out text: loss, perplexity, bits per byte."""

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
    """The result on `tokens` targets. `loss` is the mean in nats per token, special tokens included. `bits_per_byte`
    leaves out special tokens and the space that SentencePiece adds before a text, and counts the bytes of the original
    text where a tokenizer rewrites it, so it is comparable across tokenizers."""

    loss: float
    bits_per_byte: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by their names in the event `Evaluated`."""
        return {"validation_loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


@dataclass
class Totals:
    """Sums over evaluated targets: nats of all, nats and bytes of those that are text, and their number."""

    nats: float = 0.0
    text_nats: float = 0.0
    text_bytes: float = 0.0
    tokens: float = 0.0

    def add(self, losses: Tensor, inputs: NDArray[np.int64], targets: NDArray[np.int64], text: TextBytes) -> None:
        """Add a batch: the loss (B, T) of each target (B, T) after its input; targets of −1 do not count."""
        is_counted = targets != IGNORE_INDEX
        losses = losses.cpu().double()[torch.from_numpy(is_counted)]  # summed here: not every device has float64
        previous, targets = inputs[is_counted], targets[is_counted]
        self.nats += float(losses.sum())
        self.text_nats += float(losses[torch.from_numpy(text.lengths[targets] > 0)].sum())
        self.text_bytes += int(text.counts(targets, previous).sum())
        self.tokens += len(targets)

    def over(self, ranks: Ranks) -> Totals:
        """The sums over all ranks."""
        return Totals(*ranks.sum(torch.tensor(astuple(self), dtype=torch.float64)).tolist())

    def evaluation(self, bytes_scale: float) -> Evaluation:
        """The means over all targets. UserError if there are none."""
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
    """Evaluate `model` on `batches` of windows of `seq_len` tokens spread evenly over the split, the same at every call
    (0: on all windows). In conversations only the answers count; `packing` is `tune.packing`. Yields progress about
    twice a second, under the name `stage`, and returns the result. UserError if the split is shorter than one window.

    Draws no random numbers, and restores the mode of the model, also when the generator is closed early. Several
    `ranks` share the batches and get the same result; all must exhaust the generator.
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
    """A context in which the model is in evaluation mode; its previous mode is restored afterwards."""
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
    """The indices of the batches that this rank evaluates, each with whether its result counts.

    All ranks evaluate the same number of batches, since under FSDP2 each forward pass is a collective: where batches
    run out, a rank evaluates batch 0 without counting it.
    """
    for start in range(0, batches, ranks.world_size):
        index = start + ranks.rank
        yield (index, True) if index < batches else (0, False)
