"""A model's answers to the questions of a bundle, and their CORE metric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from llm.core.bundle import Task
from llm.core.questions import Prompt, Question, questions
from llm.device import Plan
from llm.events import Progress
from llm.model.loss import IGNORE_INDEX
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.training.distributed import Ranks
from llm.training.evaluate import SECONDS_BETWEEN_PROGRESS, evaluation_mode, share_batches

BATCHES_IN_GROUP = 8


@dataclass(frozen=True)
class CoreResult:
    """By task label: `accuracy` is the share of correct answers, `centred` is (accuracy − baseline) / (1 − baseline),
    which is 0 for guessing and negative below it. `examples`: the number of questions."""

    accuracy: dict[str, float]
    centred: dict[str, float]
    examples: int

    @property
    def core_metric(self) -> float:
        """The mean of the centered accuracies."""
        return sum(self.centred.values()) / len(self.centred)


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy of a prompt's scored tokens in nats, and whether greedy decoding gives all of them."""

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
    ranks: Ranks | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, CoreResult | None]:
    """Evaluate `tasks` on at most `max_examples` questions each (0: all), with about `batch_tokens` tokens per batch.

    Yields progress at most twice a second and returns the result, or None once `should_stop` is true on any rank. Does
    not use torch's random generators, and restores the model's mode even if the generator is closed early. With several
    `ranks`, each evaluates some of the batches, and all get the same result; all must exhaust the generator.
    """
    ranks = ranks or Ranks()
    counts = {task.label: min(len(task.examples), max_examples or len(task.examples)) for task in tasks}
    total, done, reported = sum(counts.values()), 0, -math.inf
    right = dict.fromkeys(counts, 0)
    in_group = math.ceil(BATCHES_IN_GROUP / ranks.world_size) * ranks.world_size  # so that no rank waits
    with evaluation_mode(model):
        for task in tasks:
            task_questions = questions(task, tokenizer, model.config.context + 1, max_examples)
            for group in group_questions(task_questions, in_group * batch_tokens):
                if ranks.sum(torch.tensor(int(should_stop()))):
                    return None
                right[task.label] += sum(check_answers(model, plan, task, group, batch_tokens, ranks))
                done += len(group)
                if time.monotonic() - reported > SECONDS_BETWEEN_PROGRESS:
                    reported = time.monotonic()
                    yield Progress(stage=f"CORE: {task.label}", done=done, total=total, unit="questions")
    accuracy = {label: right[label] / count for label, count in counts.items()}
    centred = {task.label: (accuracy[task.label] - task.baseline) / (1 - task.baseline) for task in tasks}
    return CoreResult(accuracy, centred, total)


def group_questions(task_questions: Iterable[Question], tokens: int) -> Iterator[list[Question]]:
    """Lists of questions with about `tokens` tokens each: enough to sort by length without reading all questions."""
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
    model: Transformer, plan: Plan, task: Task, group: Sequence[Question], batch_tokens: int, ranks: Ranks
) -> Iterator[bool]:
    """Whether each question of `group` is answered correctly; the first of equally likely options is the answer."""
    prompts = [prompt for question in group for prompt in question.prompts]
    scores = iter(score_prompts(model, plan, prompts, batch_tokens, ranks))
    for question in group:
        options = [next(scores) for _ in question.prompts]
        if task.kind == "language_modeling":
            yield options[0].exact
        else:
            losses = [score.loss for score in options]
            yield losses.index(min(losses)) == question.gold


def score_prompts(
    model: Transformer, plan: Plan, prompts: Sequence[Prompt], batch_tokens: int, ranks: Ranks | None = None
) -> list[Score]:
    """The scores of `prompts`, in their order. Each of the `ranks` computes some batches; a score does not depend on
    the number of ranks."""
    ranks = ranks or Ranks()
    batches = list(batch_prompts(prompts, batch_tokens))
    results = torch.zeros((len(prompts), 2), dtype=torch.float64)
    for number, is_own in share_batches(len(batches), ranks):
        scores = score_batch(model, plan, [prompts[index] for index in batches[number]])
        if is_own:
            rows = [(score.loss, score.exact) for score in scores]
            results[batches[number]] = torch.tensor(rows, dtype=torch.float64)
    return [Score(loss, bool(exact)) for loss, exact in ranks.sum(results).tolist()]


def batch_prompts(prompts: Sequence[Prompt], batch_tokens: int) -> Iterator[list[int]]:
    """The indices of the prompts of each batch; prompts of similar length share one."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].tokens))
    while order:
        rows = max(1, batch_tokens // max(1, len(prompts[order[0]].tokens)))
        yield order[:rows]
        order = order[rows:]


@torch.no_grad()
def score_batch(model: Transformer, plan: Plan, prompts: Sequence[Prompt]) -> list[Score]:
    """The scores of one batch of prompts, padded on the right, which causal attention ignores."""
    width = max(2, *(len(prompt.tokens) for prompt in prompts))
    tokens = torch.zeros((len(prompts), width), dtype=torch.int64)
    targets = torch.full((len(prompts), width - 1), IGNORE_INDEX)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt.tokens)] = torch.tensor(prompt.tokens)
        last = len(prompt.tokens[1:])
        targets[row, prompt.start - 1 : last] = tokens[row, prompt.start : last + 1]  # position i predicts token i + 1
    with plan.autocast():
        losses, likeliest = model.score(tokens[:, :-1].to(plan.device), targets.to(plan.device))
    counts = [max(0, len(prompt.tokens) - prompt.start) for prompt in prompts]
    parts = zip(losses.cpu().double().split(counts), likeliest.cpu().split(counts), strict=True)
    # An option without a token to score (an empty text) is never chosen.
    return [
        Score(float(loss.mean()), bool(exact.all())) if len(loss) else Score(math.inf, False) for loss, exact in parts
    ]
