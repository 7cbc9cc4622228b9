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
from llm.engine.weights import inference_model
from llm.errors import UserError
from llm.model.loss import IGNORE_INDEX
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.training.distributed import Ranks
from llm.training.rewards import TASKS, task_questions

METRICS = ("reward", "kl", "entropy")
CLIP = 0.2
"""The ε of the clipped objective: how far the probability ratio may be from 1 (TRL's default)."""
MAX_QUESTIONS = 4096
"""The number of different questions in a run, at most."""
ADVANTAGE_EPS = 1e-4  # added to the standard deviation of a group, as in TRL

Rows = tuple[NDArray[Any], ...]


class Reply(NamedTuple):
    """One sampled answer: prompt tokens, answer tokens and their log-probabilities under the sampling policy,
    reward."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    log_probs: Sequence[float]
    reward: float


class GroupLoss:
    """The GRPO loss of answers, and METRICS: the mean reward, and the mean KL divergence to the reference model and
    mean entropy, both in nats per token."""

    def __init__(self, model: Transformer, beta: float) -> None:
        self.model, self.beta = model, beta

    def __call__(
        self, inputs: Tensor, targets: Tensor, advantages: Tensor, rewards: Tensor, sampled: Tensor, reference: Tensor
    ) -> Tensor:
        """Inputs and targets, int64 (B, T) (-1: not part of the answer); advantages and rewards, float32 (B,);
        log-probabilities of the targets under the sampling policy and the reference, float32 (B, T) → (1 + 3,): the
        loss and METRICS, which have no gradient.

        The loss is that of equation 3: the mean over answers of the mean over their tokens, with the estimator of
        equation 4 for the KL divergence.
        """
        log_probs, entropy = answer_statistics(self.model, inputs, targets)
        is_answer = targets != IGNORE_INDEX
        row = is_answer.nonzero()[:, 0]
        ratio = (log_probs - sampled[is_answer]).exp()
        advantage = advantages[row]
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
        difference = reference[is_answer] - log_probs
        kl = difference.exp() - difference - 1
        losses = (self.beta * kl - surrogate) / is_answer.sum(-1)[row]
        loss = losses.sum() / len(inputs)
        return torch.stack([loss, rewards.mean(), kl.detach().mean(), entropy.mean()])


def answer_statistics(model: Transformer, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """For the N targets that are not ignored, in row-major order: the log-probability, and the entropy of the predicted
    distribution (without gradient). Both (N,), float32 or wider."""
    is_answer = targets != IGNORE_INDEX
    logits = model.logits(model.hidden(inputs)[is_answer])
    with torch.autocast(inputs.device.type, enabled=False):  # on a CPU it would run log_softmax in bfloat16
        log_probs = torch.log_softmax(logits, -1)
        detached = log_probs.detach()
        return log_probs.gather(-1, targets[is_answer].unsqueeze(-1)).squeeze(-1), -(detached.exp() * detached).sum(-1)


def group_advantages(rewards: Tensor) -> Tensor:
    """Advantages (groups, answers): rewards minus the mean of their group, over its standard deviation."""
    std = rewards.std(-1, keepdim=True) + ADVANTAGE_EPS
    return (rewards - rewards.mean(-1, keepdim=True)) / std


class QuestionIndices:
    """Rows for `PackedBatches`, each of which is the index of a question."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.num_targets: Int64 = np.zeros(rows, np.int64)

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
            QuestionIndices(len(self.questions)),
            rows=replies // config.tune.group,
            seed=config.train.seed,
            rank=ranks.rank,
            ranks=ranks.world_size,
        )

    def batch(self, i: int) -> Rows:
        """The numbers of the questions of batch i of this rank."""
        return self.order.batch(i)

    def num_targets(self, i: int) -> int:
        """0: the loss is a mean over answers."""
        return 0

    def cursor(self, i: int) -> None:
        """None: the questions of batch i are a function of i."""

    def sample(self, batch: Rows, i: int) -> Rows:
        """Sample answers to the questions of `batch`, which is batch i; returns the arguments of `GroupLoss`."""
        replies = self.generate(batch[0].tolist(), i)
        inputs, targets, sampled = arrays_of(replies)
        rewards = torch.tensor([reply.reward for reply in replies])
        advantages = group_advantages(rewards.view(-1, self.config.tune.group)).flatten()
        reference = self._reference_log_probs(inputs, targets)
        return inputs, targets, advantages.numpy(), rewards.numpy(), sampled, reference

    def generate(self, numbers: Sequence[int], i: int) -> list[Reply]:
        """`tune.group` answers to each question, sampled at temperature 1 without truncation."""
        self.model.eval()
        try:
            model = inference_model(self.model, dtype=self.model.head_weight.dtype)
            batch = ContinuousBatch(model, self.tokenizer)
            requests = [request for number in numbers for request in self._requests(number, i, batch.max_rows)]
            tokens: defaultdict[tuple[int, int], list[NewToken]] = defaultdict(list)
            for token in run_requests(batch, [request for request, _ in requests]):
                tokens[id(token.request), token.sample].append(token)
        finally:
            self.model.train()
        return [
            self._reply(request, question, tokens[id(request), sample])
            for request, question in requests
            for sample in range(request.params.num_samples)
        ]

    def _requests(self, number: int, i: int, max_samples: int) -> list[tuple[Request, Question]]:
        """The requests for the answers to one question, with at most `max_samples` samples each."""
        tune, requests = self.config.tune, []
        for first in range(0, tune.group, max_samples):
            seed = random.Random(f"{self.config.train.seed} {i} {number} {first}").getrandbits(62)
            count = min(max_samples, tune.group - first)
            params = DecodeConfig(max_tokens=tune.max_tokens, stop=self.stop, num_samples=count, seed=seed)
            requests.append((Request(self.prompts[number], params), self.questions[number]))
        return requests

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
        result = np.zeros(inputs.shape, np.float32)
        size = self.config.train.batch_size
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            tokens, answers = (torch.from_numpy(array[rows]).to(self.plan.device) for array in (inputs, targets))
            with self.plan.autocast():
                log_probs, _ = answer_statistics(self.reference, tokens, answers)
            result[rows][targets[rows] != IGNORE_INDEX] = log_probs.float().cpu().numpy()
        return result

    def _find_questions(self, seq_len: int) -> tuple[list[Question], list[tuple[int, ...]]]:
        """The questions that fit, and their tokens."""
        tune = self.config.tune
        questions = task_questions(tune.task, TRAIN, MAX_QUESTIONS, self.config.data.seed)
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
