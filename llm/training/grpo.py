"""Group relative policy optimization (Shao et al. 2024, "DeepSeekMath", section 4.1): the model answers each question
several times, and answers with a reward above the mean of their group become more probable.

One update is made from each batch of answers, so that the ratio of equation 3 is 1 up to rounding, and dropout.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.config import DecodeConfig, RunConfig
from llm.data.batches.packing import Int64, PackedBatches
from llm.data.text.dialogues import TRAIN, Question
from llm.device import Plan
from llm.engine.continuous import ContinuousBatch, NewToken, Request, run_requests
from llm.engine.weights import reading_model
from llm.errors import UserError
from llm.model.loss import IGNORE_INDEX
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.training.distributed import Ranks
from llm.training.rewards import TASKS, task_questions

METRICS = ("reward", "kl", "entropy")
CLIP = 0.2
"""How far the ratio of the probabilities may be from 1 (TRL's default)."""
QUESTIONS = 4096
"""Different questions of a run, at most."""
SMALLEST_SPREAD = 1e-4  # added to the standard deviation of a group, as TRL does

Rows = tuple[NDArray[Any], ...]


class Reply(NamedTuple):
    """One answer: the tokens of its question, its own tokens with their log-probabilities when sampled, its reward."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    log_probs: Sequence[float]
    reward: float


class GroupLoss:
    """The loss of answers, with the mean reward, the mean KL divergence to the reference, and the mean entropy, in nats
    per token."""

    def __init__(self, model: Transformer, beta: float) -> None:
        self.model, self.beta = model, beta

    def __call__(
        self, inputs: Tensor, targets: Tensor, advantages: Tensor, rewards: Tensor, sampled: Tensor, reference: Tensor
    ) -> Tensor:
        """int64 (B, T) inputs and targets (-1: not of the answer), float32 (B,) advantages and rewards, float32 (B, T)
        log-probabilities when sampled and under the reference → (1 + 3,): the loss and METRICS.

        The loss is that of equation 3: the mean over answers of the mean over their tokens, with the estimator of
        equation 4 for the KL divergence.
        """
        log_probs, entropy = answer_statistics(self.model, inputs, targets)
        is_answer = targets != IGNORE_INDEX
        row = is_answer.nonzero()[:, 0]
        ratio = (log_probs - sampled[is_answer]).exp()
        advantage = advantages[row]
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
        difference = reference[is_answer] - log_probs
        kl = difference.exp() - difference - 1
        losses = (self.beta * kl - gain) / is_answer.sum(-1)[row]
        loss = losses.sum() / len(inputs)
        return torch.stack([loss, rewards.mean(), kl.detach().mean(), entropy.mean()])


def answer_statistics(model: Transformer, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of every target that is not ignored, and the entropy of the distribution there (without
    gradient): float32 or wider (N,) each, row by row."""
    is_answer = targets != IGNORE_INDEX
    logits = model.logits(model.hidden(inputs)[is_answer])
    with torch.autocast(inputs.device.type, enabled=False):  # on a CPU it would run log_softmax in bfloat16
        log_probs = torch.log_softmax(logits, -1)
        every = log_probs.detach()
        return log_probs.gather(-1, targets[is_answer].unsqueeze(-1)).squeeze(-1), -(every.exp() * every).sum(-1)


def group_advantages(rewards: Tensor) -> Tensor:
    """Rewards (groups, answers) minus the mean of their group, divided by its standard deviation."""
    spread = rewards.std(-1, keepdim=True) + SMALLEST_SPREAD
    return (rewards - rewards.mean(-1, keepdim=True)) / spread


class QuestionNumbers:
    """The questions as rows of batches: each is its number."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.counted: Int64 = np.zeros(rows, np.int64)

    def read(self, rows: Int64) -> Rows:
        return (rows,)


class Rollouts:
    """A BatchSource of questions, and the answers of the model to them.

    The questions of batch i are a function of (seed, i), its answers one of (seed, i, weights).
    """

    def __init__(
        self,
        config: RunConfig,
        model: Transformer,
        reference: Transformer,
        tokenizer: Tokenizer,
        plan: Plan,
        ranks: Ranks,
        *,
        replies: int,
        seq_len: int,
    ) -> None:
        """`replies`: answers per step over all ranks. UserError if no question fits into `seq_len` tokens."""
        self.config, self.model, self.reference, self.plan = config, model, reference, plan
        assert tokenizer.chat_template is not None, "a stage of fine-tuning has a chat template"
        self.tokenizer, self.template, self.task = tokenizer, tokenizer.chat_template, TASKS[config.tune.task]
        self.stop = tuple(filter(None, [self.template.stop]))
        self.questions, self.prompts = self._find_questions(seq_len)
        self.order = PackedBatches(
            QuestionNumbers(len(self.questions)),
            rows=replies // config.tune.group,
            seed=config.train.seed,
            rank=ranks.rank,
            ranks=ranks.world_size,
        )

    def batch(self, i: int) -> Rows:
        """The numbers of the questions of batch i of this rank."""
        return self.order.batch(i)

    def counted(self, i: int) -> int:
        """0: the loss is a mean over answers."""
        return 0

    def cursor(self, i: int) -> None:
        """None: the questions of batch i are a function of i."""

    def sample(self, batch: Rows, i: int) -> Rows:
        """The arguments of the loss for answers of the present model to the questions of batch i."""
        replies = self.generate(batch[0].tolist(), i)
        inputs, targets, sampled = arrays_of(replies)
        rewards = torch.tensor([reply.reward for reply in replies])
        advantages = group_advantages(rewards.view(-1, self.config.tune.group)).flatten()
        reference = self._reference_log_probs(inputs, targets)
        return inputs, targets, advantages.numpy(), rewards.numpy(), sampled, reference

    def generate(self, numbers: Sequence[int], i: int) -> list[Reply]:
        """`tune.group` answers to each question, sampled from the model's probabilities as they are."""
        self.model.eval()
        try:
            model = reading_model(self.model, dtype=self.model.head_weight.dtype)
            batch = ContinuousBatch(model, self.tokenizer)
            asked = [request for number in numbers for request in self._requests(number, i, batch.max_rows)]
            tokens: defaultdict[tuple[int, int], list[NewToken]] = defaultdict(list)
            for token in run_requests(batch, [request for request, _ in asked]):
                tokens[id(token.request), token.sample].append(token)
        finally:
            self.model.train()
        return [
            self._reply(request, question, tokens[id(request), sample])
            for request, question in asked
            for sample in range(request.params.num_samples)
        ]

    def _requests(self, number: int, i: int, most: int) -> list[tuple[Request, Question]]:
        """The requests for the answers to one question, with at most `most` samples each."""
        tune, found = self.config.tune, []
        for first in range(0, tune.group, most):
            seed = random.Random(f"{self.config.train.seed} {i} {number} {first}").getrandbits(62)
            count = min(most, tune.group - first)
            params = DecodeConfig(max_tokens=tune.max_tokens, stop=self.stop, num_samples=count, seed=seed)
            found.append((Request(self.prompts[number], params), self.questions[number]))
        return found

    def _reply(self, request: Request, question: Question, tokens: Sequence[NewToken]) -> Reply:
        """One answer with its reward, which is 0 if it does not end."""
        text = "".join(token.text for token in tokens).strip()
        reward = self.task.reward(text, question) if tokens[-1].reason == "stop" else 0.0
        ids = [token.token_id for token in tokens]
        log_probs = [token.logprob for token in tokens if token.logprob is not None]  # only a prompt's first has none
        return Reply(request.prompt, ids, log_probs, reward)

    @torch.no_grad()
    def _reference_log_probs(self, inputs: Int64, targets: Int64) -> NDArray[np.float32]:
        """The log-probabilities of the answers under the reference, float32 (B, T), 0 elsewhere."""
        found = np.zeros(inputs.shape, np.float32)
        size = self.config.train.batch_size
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            tokens, wanted = (torch.from_numpy(array[rows]).to(self.plan.device) for array in (inputs, targets))
            with self.plan.autocast():
                log_probs, _ = answer_statistics(self.reference, tokens, wanted)
            found[rows][targets[rows] != IGNORE_INDEX] = log_probs.float().cpu().numpy()
        return found

    def _find_questions(self, seq_len: int) -> tuple[list[Question], list[tuple[int, ...]]]:
        """The questions that fit, and their tokens."""
        tune = self.config.tune
        questions = task_questions(tune.task, TRAIN, QUESTIONS, self.config.data.seed)
        prompts = [tuple(self.template.prompt_ids(self.tokenizer, question.messages)) for question in questions]
        fitting = [number for number, prompt in enumerate(prompts) if len(prompt) + tune.max_tokens <= seq_len]
        if not fitting:
            raise UserError(
                f"No question of {tune.task} fits into {seq_len:,} tokens with {tune.max_tokens} for the answer; lower "
                "tune.max_tokens, or use a model with a longer context."
            )
        return [questions[number] for number in fitting], [prompts[number] for number in fitting]


def arrays_of(replies: Sequence[Reply]) -> tuple[Int64, Int64, NDArray[np.float32]]:
    """Inputs and targets (-1: not of the answer), int64, and log-probabilities when sampled, float32: (replies, T)."""
    width = max(len(reply.prompt) + len(reply.tokens) for reply in replies) - 1
    shape = (len(replies), width)
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORE_INDEX, np.int64)
    sampled = np.zeros(shape, np.float32)
    for row, reply in enumerate(replies):
        first, stop = len(reply.prompt) - 1, len(reply.prompt) + len(reply.tokens) - 1
        inputs[row, :stop] = (*reply.prompt, *reply.tokens)[:-1]
        targets[row, first:stop] = reply.tokens
        sampled[row, first:stop] = reply.log_probs
    return inputs, targets, sampled
