"""Reinforcement: the rewards, the loss of TRL, answers sampled by the model, training to the end."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llm.config import RunConfig, with_overrides
from llm.config.resolve import resolve_model
from llm.config.schema import ModelConfig
from llm.data.text.dialogues import KNOWN_WORDINGS, TRAIN, Question
from llm.device import Plan
from llm.errors import ConfigError, UserError
from llm.events import AnswersEvaluated, MetricsLogged, StepLogged
from llm.files import remove_directory
from llm.model.transformer import Transformer
from llm.run import Run
from llm.run.fork import open_parent
from llm.training.distributed import Ranks
from llm.training.grpo import METRICS, GroupLoss, Rollouts, answer_statistics, group_advantages
from llm.training.rewards import TASKS, task_questions
from llm.training.run import run_training
from llm.training.start_stage import plan_stage, start_stage
from tests.data.batches.test_packing import TOKENIZER

from .test_resume import StopAfter, assert_same_end
from .test_sft import base_home as base_home
from .test_sft import parent as parent
from .test_sft import sft

GROUP = 4
CONFIG = with_overrides(
    RunConfig(), [("tune.stage", "grpo"), ("tune.group", str(GROUP)), ("tune.max_tokens", "7"), ("train.steps", "1")]
)


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("The cat says meow.", 1),
        ("7 is 7.", 1),
        ("the cat.", 0.75),
        ("A. B.", 0.75),
        ("no", 0.25),
        ("", 0),
        ("So?", 0.75),
    ],
)
def test_the_reward_of_a_format(reply: str, reward: float) -> None:
    assert TASKS["format"].reward(reply, Question("", (), ())) == reward


@pytest.mark.parametrize("task", ["sums", "counting"])
def test_tasks_reward_right_answers_to_questions_apart_from_tests(task: str) -> None:
    questions = task_questions(task, TRAIN, 200, seed=1)
    texts = {question.messages[-1].content for question in questions}
    assert len(texts) == 200 and questions == task_questions(task, TRAIN, 200, seed=1)
    assert not texts & {question.messages[-1].content for question in task_questions(task, KNOWN_WORDINGS, 200, seed=1)}
    for question in questions:
        sentence, short = question.answers
        assert short.isdigit() and [TASKS[task].reward(reply, question) for reply in (sentence, short)] == [1, 1]
        assert TASKS[task].reward(sentence.replace(short, "99"), question) == 0


def small_model(seed: int = 1) -> Transformer:
    shape = ModelConfig(n_layer=2, d_model=24, n_head=4, context=80, init_std=0.2)
    model = Transformer(resolve_model(shape, TOKENIZER.vocab_size))
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def rollouts(model: Transformer, reference: Transformer, ranks: Ranks | None = None) -> Rollouts:
    plan = Plan("cpu", "fp32", 1, False)
    return Rollouts(CONFIG, model, reference, TOKENIZER, plan, ranks or Ranks(), replies=6 * GROUP, seq_len=80)


def sampled_batch(model: Transformer, reference: Transformer) -> tuple[np.ndarray, ...]:
    source = rollouts(model, reference)
    inputs, targets, _, _, sampled, of_reference = source.sample(source.batch(3), 3)
    rewards = torch.rand(6, GROUP, generator=torch.Generator().manual_seed(1))
    advantages = group_advantages(rewards).flatten().numpy()
    return inputs, targets, advantages, rewards.flatten().numpy(), sampled, of_reference


def test_answers_are_a_function_of_seed_batch_and_weights() -> None:
    model, reference = small_model(), small_model(2)
    source = rollouts(model, reference)
    first = source.sample(source.batch(0), 0)
    for array, again in zip(first, rollouts(model, reference).sample(source.batch(0), 0), strict=True):
        assert (array == again).all()
    assert model.training, "sampling leaves the model in training mode"
    ids = [tuple(row[row >= 0]) for row in first[1]]
    assert len(set(ids)) == len(ids), "all answers differ"
    assert all(tuple(row[row >= 0]) not in ids for row in source.sample(source.batch(0), 1)[1])
    halves = [rollouts(model, reference, Ranks(rank, 2)).batch(0)[0] for rank in range(2)]
    assert np.concatenate(halves).tolist() == source.batch(0)[0].tolist()


def test_the_probabilities_are_those_of_sampling_and_of_the_reference() -> None:
    model, reference = small_model(), small_model(2)
    inputs, targets, _, _, sampled, of_reference = sampled_batch(model, reference)
    is_answer = targets >= 0
    assert is_answer.sum(1).min() >= 1 and is_answer.sum(1).max() == 7
    for one, array in ((model, sampled), (reference, of_reference)):
        log_probs, _ = answer_statistics(one, torch.from_numpy(inputs), torch.from_numpy(targets))
        assert np.abs(log_probs.detach().numpy() - array[is_answer]).max() < 1e-5
    loss = GroupLoss(model, 0.1)(*map(torch.from_numpy, (*sampled_batch(model, model),)))
    assert abs(loss[2].item()) < 1e-6, "no divergence from itself"


def test_loss_metrics_and_gradients_are_those_of_trl() -> None:
    """TRL's own code computes the loss; only log-probabilities and entropies come from our model, by torch. The answers
    were sampled a while ago, so that some ratios are clipped."""
    from trl import GRPOTrainer
    from trl.trainer.utils import nanstd

    model, reference = small_model(), small_model(2)
    batch = sampled_batch(model, reference)
    batch[4][:] += np.random.default_rng(1).normal(0, 0.3, batch[4].shape).astype(np.float32)
    tensors = [torch.from_numpy(array) for array in batch]
    ours = GroupLoss(model, beta=0.3)(*tensors)
    ours[0].backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    inputs, targets, advantages, rewards, sampled, of_reference = tensors

    groups = rewards.view(-1, GROUP)
    spread = torch.stack([nanstd(group) for group in groups])[:, None]
    assert torch.allclose(advantages, ((groups - groups.mean(1, keepdim=True)) / (spread + 1e-4)).flatten())

    def aligned(values: torch.Tensor) -> torch.Tensor:
        """The values of the answers of each row, from the left."""
        rows = [row[wanted >= 0] for row, wanted in zip(values, targets, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def statistics(*_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor, None]:
        log_probs = torch.log_softmax(model(inputs), -1)
        chosen = log_probs.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return aligned(chosen), aligned(-(log_probs.exp() * log_probs).sum(-1)), None

    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    class LossOnly(GRPOTrainer):  # type: ignore[misc]
        _get_per_token_logps_and_entropies = staticmethod(statistics)

        def __init__(self) -> None:
            self.model, self._metrics = model, found
            self.args = SimpleNamespace(use_bias_correction_kl=False, delta=None)
            self.accelerator = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x)
            self.loss_type, self.importance_sampling_level, self.beta = "grpo", "token", 0.3
            self.epsilon_low = self.epsilon_high = 0.2
            self.aux_loss_enabled = self.use_vllm = self._entropy_bonus_enabled = False
            self.top_entropy_quantile, self.off_policy_mask_threshold = 1.0, None
            self.current_gradient_accumulation_steps = 1

        def loss(self, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
            return self._compute_loss(model, arguments)

    answers = aligned(targets)
    mask = aligned(torch.ones_like(targets))
    arguments = {"prompt_ids": answers, "prompt_mask": mask, "completion_ids": answers, "completion_mask": mask}
    arguments |= {"advantages": advantages, "old_per_token_logps": aligned(sampled)}
    theirs = LossOnly().loss(arguments | {"ref_per_token_logps": aligned(of_reference)})
    theirs.backward()
    assert found["train"]["clip_ratio/region_mean"][0] > 0.1
    assert float(ours[0].detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert parameter.grad is not None and (gradient - parameter.grad).abs().max() < 1e-5
    measured = [float(rewards.mean()), *(found["train"][name][0] for name in ("kl", "entropy"))]
    assert ours[1:].tolist() == pytest.approx(measured, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_loss_and_gradients_are_finite(precision: str) -> None:
    """Also where all answers of a group have the same reward, and where the reference finds an answer impossible."""
    model = small_model()
    inputs, targets, advantages, rewards, sampled, of_reference = sampled_batch(model, model)
    advantages[:GROUP] = group_advantages(torch.ones(1, GROUP)).flatten().numpy()
    of_reference[0] = np.where(targets[0] >= 0, -1e4, 0)
    plan = Plan("cpu", precision, 1, False)  # type: ignore[arg-type]
    with plan.autocast():
        arrays = (inputs, targets, advantages, rewards, sampled, of_reference)
        loss = GroupLoss(model, 0.1)(*map(torch.from_numpy, arrays))
    loss[0].backward()
    assert loss.isfinite().all() and (advantages[:GROUP] == 0).all()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())


def grpo(home: Path, reference: str, **fields: str) -> Run:
    overrides = [("data.size_mb", "0.02"), ("train.batch_size", "24"), ("train.lr_multiplier", "1")]
    overrides += [("tune.max_tokens", "12"), ("evaluate.batches", "1"), ("evaluate.answers_questions", "16")]
    overrides += [(path.replace("__", "."), text) for path, text in fields.items()]
    return start_stage(home, plan_stage(home, open_parent(home, reference), overrides, stage="grpo"))


@pytest.fixture
def speaker(parent: Run, tmp_path: Path) -> Run:
    """A run that answers in a few characters, some of them a sentence."""
    answers = ("A cat.", "a cat.", "A cat", "Two. Two.", "a")
    corpus = tmp_path / "rows.jsonl"
    rows = [{"prompt": "abcdefgh"[number % 8], "completion": answers[number % 5]} for number in range(40)]
    corpus.write_text("\n".join(map(json.dumps, rows)) + "\n")
    run = sft(tmp_path, corpus, train__steps="60", train__lr_multiplier="1", sample__every="0", evaluate__every="0")
    run_training(run, tmp_path)
    return run


def test_a_run_learns_what_is_rewarded_and_resumes_bit_for_bit(speaker: Run, tmp_path: Path) -> None:
    fields = {"tune__task": "format", "tune__beta": "0.01", "train__steps": "14", "checkpoint__every": "4"}
    fields |= {"data__corpus": "dialogues", "evaluate__answers_every": "7", "model__context": "64"}
    fields |= {"data__size_mb": "0.1"}
    whole = grpo(tmp_path, speaker.name, **fields)
    assert whole.name == f"{speaker.name}-grpo-1"
    assert run_training(whole, tmp_path).status == "finished"
    events = list(whole.events())
    logged = [event.metrics for event in events if isinstance(event, MetricsLogged)]
    assert [tuple(metrics) for metrics in logged] == [METRICS] * 14
    assert abs(logged[0]["kl"]) < 1e-5 < logged[-1]["kl"], "at first it is the reference"
    first, last = (np.mean([metrics["reward"] for metrics in part]) for part in (logged[:4], logged[-4:]))
    assert last > first + 0.1
    assert [event.step for event in events if isinstance(event, AnswersEvaluated)] == [0, 7, 14]
    steps = [event for event in events if isinstance(event, StepLogged)]
    assert 0 < steps[-1].tokens_seen <= 14 * 24 * 64
    resumed = grpo(tmp_path, speaker.name, **fields)
    assert run_training(resumed, tmp_path, commands=StopAfter(9)).status == "stopped"
    assert 0 < resumed.checkpoint().step < 14
    run_training(resumed, tmp_path)
    assert_same_end(whole, resumed)
    remove_directory(resumed.path / "reference")
    with pytest.raises(UserError, match="only the first step can save it"):
        run_training(resumed, tmp_path, overrides=(("train.steps", "15"),))


def test_what_cannot_be_reinforced_is_refused(parent: Run, tmp_path: Path) -> None:
    for fields, message in (
        ({"tune.group": "7"}, "tune.group: 7 answers to each question do not divide the 64 answers of a step"),
        ({"train.minutes": "1"}, "train.minutes: the length of grpo is given in steps"),
        ({"train.sharding": "fsdp"}, "train.sharding: grpo needs whole weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_stage(tmp_path, open_parent(tmp_path, "base"), list(fields.items()), stage="grpo")
    long = grpo(tmp_path, "base", tune__task="counting", data__size_mb="0.1")
    with pytest.raises(UserError, match="No question of counting fits into 48 tokens with 12 for the answer"):
        run_training(long, tmp_path)
