"""Direct preference optimization (Rafailov et al. 2023, eq. 7): raise the probability of chosen answers over rejected
ones, relative to the reference model, which is the model before this stage."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llm.data.batches.pairs import PairRows
from llm.data.tokens.conversation_tokens import ConversationTokens
from llm.data.tokens.dataset import Dataset
from llm.device import Plan
from llm.errors import UserError
from llm.events import Progress
from llm.files import published_directory
from llm.model.loss import IGNORE_INDEX
from llm.model.transformer import Transformer
from llm.run import Run
from llm.tokenizer.textbytes import TextBytes
from llm.training.distributed import Ranks
from llm.training.evaluate import evaluation_mode, share_batches
from llm.training.tensor_file import read_tensors, write_tensors

METRICS = ("reward", "margin", "accuracy")
FOLDER, TENSORS = "reference", "log_probabilities.safetensors"


class PairEvaluation(NamedTuple):
    """The mean loss and METRICS over pairs; and the sums of nats, tokens and bytes of text over the chosen answers."""

    loss: float
    metrics: dict[str, float]
    chosen_nats: float
    tokens: int
    text_bytes: int


class PreferenceLoss:
    """The mean loss of pairs, and METRICS: the mean implicit reward of chosen answers, its mean margin over that of the
    rejected ones, and the accuracy, the fraction of pairs with a positive margin."""

    def __init__(self, model: Transformer, beta: float) -> None:
        self.model, self.beta = model, beta

    def __call__(self, inputs: Tensor, targets: Tensor, reference: Tensor) -> Tensor:
        """Inputs and targets, int64 (B, 2, T) with the chosen answer first; reference log-probabilities, float32 (B, 2)
        → (1 + 3,): the loss and METRICS, which have no gradient."""
        rewards = self.beta * (log_probabilities(self.model, inputs, targets) - reference)
        margin = rewards[:, 0] - rewards[:, 1]
        loss = -F.logsigmoid(margin).mean()
        metrics = (rewards[:, 0].mean(), margin.mean(), (margin > 0).float().mean())
        return torch.stack([loss, *(value.detach() for value in metrics)])


def log_probabilities(model: Transformer, inputs: Tensor, targets: Tensor) -> Tensor:
    """The log-probability in nats of each answer: int64 (B, 2, T) → (B, 2), float32 or wider."""
    losses = model.loss(inputs.flatten(0, 1), targets.flatten(0, 1), "none")
    return -losses.sum(-1).view(targets.shape[:2])


@torch.no_grad()
def compute_reference(
    model: Transformer, pairs: PairRows, plan: Plan, batch_size: int
) -> Generator[Progress, None, None]:
    """Set `pairs.reference`, float32 (pairs, 2), to the log-probabilities under `model`."""
    with evaluation_mode(model):
        for first in range(0, pairs.rows, batch_size):
            rows = np.arange(first, min(first + batch_size, pairs.rows))
            inputs, targets, _ = (torch.from_numpy(array).to(plan.device) for array in pairs.read(rows))
            with plan.autocast():
                pairs.reference[rows] = log_probabilities(model, inputs, targets).float().cpu().numpy()
            yield Progress(stage="Computing reference log-probabilities", done=first, total=pairs.rows, unit="pairs")


@torch.no_grad()
def evaluate_pairs(
    model: Transformer,
    pairs: PairRows,
    beta: float,
    plan: Plan,
    text: TextBytes,
    *,
    batch_size: int,
    batches: int,
    ranks: Ranks | None = None,
) -> Generator[Progress, None, PairEvaluation]:
    """Evaluate `model` on `batches` of pairs spread evenly over the split (0: on all of them). Several `ranks` share
    the batches, as in `evaluate`."""
    ranks = ranks or Ranks()
    count = min(batches * batch_size, pairs.rows) or pairs.rows
    numbers = np.arange(count, dtype=np.int64) * pairs.rows // count
    loss_fn = PreferenceLoss(model, beta)
    total = torch.zeros(1 + len(METRICS), dtype=torch.float64)
    chosen = torch.zeros(3, dtype=torch.float64)  # nats, tokens, bytes of text
    with evaluation_mode(model):
        for index, is_own in share_batches(math.ceil(count / batch_size), ranks):
            if not is_own:
                continue
            rows = numbers[index * batch_size : (index + 1) * batch_size]
            arrays = pairs.read(rows)
            inputs, targets, reference = (torch.from_numpy(array).to(plan.device) for array in arrays)
            with plan.autocast():
                total += loss_fn(inputs, targets, reference).double().cpu() * len(rows)
                nats = float(model.loss(inputs[:, 0], targets[:, 0], "sum"))
            is_counted = arrays[1][:, 0] != IGNORE_INDEX
            size = int(text.counts(arrays[1][:, 0][is_counted], arrays[0][:, 0][is_counted]).sum())
            chosen += torch.tensor([nats, int(is_counted.sum()), size], dtype=torch.float64)
            done = index * batch_size
            yield Progress(stage="Evaluating held-out preferences", done=done, total=count, unit="pairs")
    loss, *metrics = (ranks.sum(total) / count).tolist()
    nats, tokens, text_bytes = ranks.sum(chosen).tolist()
    return PairEvaluation(loss, dict(zip(METRICS, metrics, strict=True)), nats, int(tokens), int(text_bytes))


class References:
    """The pairs of both splits of a run, with their reference log-probabilities.

    These are computed once, at the first step, and saved in the run's folder.
    """

    def __init__(self, run: Run, dataset: Dataset, seq_len: int) -> None:
        splits = {"train": dataset.train, "validation": dataset.validation}
        self.path = run.path / FOLDER
        self.splits = {
            name: PairRows(split, seq_len) for name, split in splits.items() if isinstance(split, ConversationTokens)
        }

    @property
    def train(self) -> PairRows:
        return self.splits["train"]

    @property
    def validation(self) -> PairRows:
        return self.splits["validation"]

    @property
    def is_saved(self) -> bool:
        return (self.path / TENSORS).exists()

    def compute(self, model: Transformer, plan: Plan, batch_size: int) -> Generator[Progress, None, None]:
        """Compute and save the reference log-probabilities; `model` is the one before this stage."""
        for pairs in self.splits.values():
            yield from compute_reference(model, pairs, plan, batch_size)
        with published_directory(self.path) as staging:
            tensors = {name: torch.from_numpy(pairs.reference) for name, pairs in self.splits.items()}
            write_tensors(staging / TENSORS, tensors)

    def load(self) -> None:
        """Read the saved reference log-probabilities. UserError if they are missing or belong to other pairs."""
        if not self.is_saved:
            raise UserError(f"{self.path} is missing, and only the first step can compute it; start the stage again.")
        tensors = read_tensors(self.path / TENSORS)
        for name, pairs in self.splits.items():
            if name not in tensors or tuple(tensors[name].shape) != (pairs.rows, 2):
                raise UserError(f"{self.path} does not belong to the pairs of this run; start the stage again.")
            pairs.reference = tensors[name].float().numpy()


def check_pairs(references: References, seq_len: int) -> list[str]:
    """Warnings about pairs that are too long; UserError if a split has none that fits."""
    warnings = []
    for name, pairs in references.splits.items():
        if not pairs.rows:
            raise UserError(
                f"No {name} pair fits into {seq_len:,} tokens; give shorter answers, or a model with a longer context."
            )
        if pairs.dropped:
            warnings.append(
                f"{pairs.dropped:,} {name} pairs were left out: longer than {seq_len:,} tokens (model.context)."
            )
    return warnings
