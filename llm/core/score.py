"""A model's answers to the questions of a bundle, and their CORE metric."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.core.bundle import Task
from llm.core.questions import Prompt, Question, questions
from llm.device import Plan
from llm.events import Progress
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.training.evaluate import SECONDS_BETWEEN_PROGRESS

BATCHES_IN_GROUP = 8
LOGITS_AT_ONCE = 256


@dataclass(frozen=True)
class CoreResult:
    """`accuracy`: task → share of correct answers. `centred`: task → 0 for guessing, 1 for all correct, less than 0
    for worse than guessing. `examples`: the number of questions."""

    accuracy: dict[str, float]
    centred: dict[str, float]
    examples: int

    @property
    def core_metric(self) -> float:
        """The mean of the centered accuracies."""
        return sum(self.centred.values()) / len(self.centred)


@dataclass(frozen=True)
class Score:
    """Mean loss in nats of a prompt's scored tokens, and whether each was the likeliest."""

    loss: float
    exact: bool


def evaluate_core(
    model: Transformer,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    plan: Plan,
    *,
    batch_tokens: int,
    max_examples: int = 0,
) -> Generator[Progress, None, CoreResult]:
    """Evaluate `tasks` on at most `max_examples` questions each (0: all), with about `batch_tokens` tokens per batch.

    Yields progress about twice a second and returns the result. Uses no random generator of PyTorch and restores the
    model's mode, also when closed early.
    """
    counts = {task.label: min(len(task.examples), max_examples or len(task.examples)) for task in tasks}
    total, done, reported = sum(counts.values()), 0, -math.inf
    right = dict.fromkeys(counts, 0)
    was_training = model.training
    model.eval()
    try:
        for task in tasks:
            task_questions = questions(task, tokenizer, model.config.context + 1, max_examples)
            for group in group_questions(task_questions, BATCHES_IN_GROUP * batch_tokens):
                right[task.label] += sum(check_answers(model, plan, task, group, batch_tokens))
                done += len(group)
                if time.monotonic() - reported > SECONDS_BETWEEN_PROGRESS:
                    reported = time.monotonic()
                    yield Progress(stage=f"CORE: {task.label}", done=done, total=total, unit="questions")
    finally:
        model.train(was_training)
    accuracy = {label: right[label] / count for label, count in counts.items()}
    centred = {task.label: (accuracy[task.label] - task.baseline) / (1 - task.baseline) for task in tasks}
    return CoreResult(accuracy, centred, total)


def group_questions(task_questions: Iterable[Question], tokens: int) -> Iterator[list[Question]]:
    """Questions in lists of about `tokens` tokens: enough to sort by length, without reading all."""
    group: list[Question] = []
    size = 0
    for question in task_questions:
        group.append(question)
        size += sum(len(prompt.tokens) for prompt in question.prompts)
        if size >= tokens:
            yield group
            group, size = [], 0
    if group:
        yield group


def check_answers(
    model: Transformer, plan: Plan, task: Task, group: Sequence[Question], batch_tokens: int
) -> Iterator[bool]:
    """Whether each question of `group` is answered correctly; of equally likely options the first is the answer."""
    scores = iter(
        score_prompts(model, plan, [prompt for question in group for prompt in question.prompts], batch_tokens)
    )
    for question in group:
        of_options = [next(scores) for _ in question.prompts]
        if task.kind == "language_modeling":
            yield of_options[0].exact
        else:
            losses = [score.loss for score in of_options]
            yield losses.index(min(losses)) == question.gold


def score_prompts(model: Transformer, plan: Plan, prompts: Sequence[Prompt], batch_tokens: int) -> list[Score]:
    """The scores of `prompts`, in their order; prompts of similar length share a batch."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].tokens))
    scores: dict[int, Score] = {}
    while order:
        rows = max(1, batch_tokens // len(prompts[order[0]].tokens))
        batch, order = order[:rows], order[rows:]
        scores |= zip(batch, score_batch(model, plan, [prompts[index] for index in batch]), strict=True)
    return [scores[index] for index in range(len(prompts))]


@torch.no_grad()
def score_batch(model: Transformer, plan: Plan, prompts: Sequence[Prompt]) -> list[Score]:
    """The scores of one batch of prompts, padded on the right, which causal attention ignores."""
    width = max(2, *(len(prompt.tokens) for prompt in prompts))
    tokens = torch.zeros((len(prompts), width), dtype=torch.int64)
    wanted = torch.zeros((len(prompts), width - 1), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt.tokens)] = torch.tensor(prompt.tokens)
        wanted[row, prompt.start - 1 : len(prompt.tokens[1:])] = True  # position i predicts token i + 1
    tokens, wanted = tokens.to(plan.device), wanted.to(plan.device)
    with plan.autocast():
        hidden = model.hidden(tokens[:, :-1])[wanted]
        losses, likeliest = score_targets(model, hidden, tokens[:, 1:][wanted])
    counts = [max(0, len(prompt.tokens) - prompt.start) for prompt in prompts]
    parts = zip(losses.cpu().double().split(counts), likeliest.cpu().split(counts), strict=True)
    # Without a token to score (an empty text) an option is never chosen.
    return [
        Score(float(loss.mean()), bool(exact.all())) if len(loss) else Score(math.inf, False) for loss, exact in parts
    ]


def score_targets(model: Transformer, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss in nats (n,) of each target (n,) after its hidden state (n, d_model), and whether it was the likeliest.

    The logits are computed in chunks, to save memory.
    """
    losses, likeliest = [], []
    for states, wanted in zip(hidden.split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True):
        logits = model.logits(states)
        chosen = logits.gather(-1, wanted[:, None])[:, 0]
        losses.append(logits.logsumexp(-1) - chosen)
        likeliest.append(logits.argmax(-1) == wanted)
    return torch.cat(losses), torch.cat(likeliest)
