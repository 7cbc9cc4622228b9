"""Measurements between steps: the loss on held-out text or preferences, the CORE metric, exact answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, TypeVar

from llm.answers import has_right_answer, measure_answers
from llm.config import evaluation_batch_size
from llm.core.score import CoreResult, evaluate_core
from llm.data.text.dialogues import Question
from llm.engine import Engine
from llm.events import AnswersEvaluated, CoreEvaluated, Evaluated, Event, MetricsLogged, Progress
from llm.generators import until_stopped
from llm.tokenizer.textbytes import TextBytes
from llm.training.context import TrainingContext
from llm.training.dpo import PairEvaluation, evaluate_pairs
from llm.training.evaluate import Evaluation, evaluate, evaluation_mode
from llm.training.model_views import whole_model
from llm.training.rewards import TASKS, held_out_questions

Result = TypeVar("Result")
SplitName = Literal["train", "validation"]

TRAIN_BATCHES = 20  # of training text, where `evaluate.batches` is 0 (all of the held-out text)


class Measurements:
    """Measures the model between two steps. Changes nothing in the state but `metrics` and `best_validation_loss`.

    `done_at` holds the step at which each task last ran, and `improved_at` that of the best evaluation, if the last
    evaluation was the best.
    """

    def __init__(
        self, context: TrainingContext, is_stop_requested: Callable[[], bool], done_at: dict[str, int]
    ) -> None:
        self.context = context
        self.is_stop_requested = is_stop_requested
        self.done_at = done_at
        self.improved_at = -1
        if "validation_loss" in context.state.metrics:  # of a checkpoint, which was evaluated at its step
            done_at["evaluate"] = context.state.step

    def handlers(self) -> dict[str, Callable[..., object]]:
        """The handlers of the other ranks for measurements of rank 0, by name (`Ranks.run_on_all`)."""
        return {
            "evaluate": lambda split, batches: list(self._evaluation(split, batches)),
            "evaluate pairs": lambda batches: list(self._pair_evaluation(batches)),
            "core": lambda examples: list(self._core_scores(examples)),
        }

    def evaluate(self, command_id: str = "") -> Iterator[Event]:
        context, settings = self.context, self.context.config.evaluate
        if context.references is not None:
            yield from self._evaluate_pairs(command_id)
            return
        result = yield from self._evaluate_split("validation", settings.batches)
        train_loss = None
        if settings.train_too:
            train_loss = (yield from self._evaluate_split("train", settings.batches or TRAIN_BATCHES)).loss
        best = self._record_evaluation(result.metrics)
        yield context.event(
            Evaluated, **result.metrics, tokens=result.tokens, train_loss=train_loss, best=best, command_id=command_id
        )

    def _record_evaluation(self, metrics: dict[str, float]) -> bool:
        """Record the result of an evaluation in the state; returns whether it is the best so far."""
        state, loss = self.context.state, metrics["validation_loss"]
        best = state.best_validation_loss is None or loss < state.best_validation_loss
        if best:
            state.best_validation_loss = loss
        self.improved_at = state.step if best else -1
        state.metrics |= metrics
        self.done_at["evaluate"] = state.step
        return best

    def _evaluate_pairs(self, command_id: str) -> Iterator[Event]:
        """Evaluate held-out pairs: the DPO loss, and perplexity and bits per byte of the chosen answers."""
        batches = self.context.config.evaluate.batches
        result = yield from self._run_on_all("evaluate pairs", self._pair_evaluation, batches=batches)
        metrics = {
            "validation_loss": result.loss,
            "perplexity": math.exp(min(result.chosen_nats / result.tokens, 700.0)),
            "bits_per_byte": result.chosen_nats / (math.log(2) * max(1, result.text_bytes)),
        }
        best = self._record_evaluation(metrics)
        yield self.context.event(Evaluated, **metrics, tokens=result.tokens, best=best, command_id=command_id)
        yield self.context.event(MetricsLogged, metrics=result.metrics, is_validation=True)

    def _pair_evaluation(self, batches: int) -> Generator[Progress, None, PairEvaluation]:
        context = self.context
        assert context.references is not None
        return evaluate_pairs(
            context.state.model,
            context.references.validation,
            context.config.tune.beta,
            context.plan,
            TextBytes(context.dataset.tokenizer),
            batch_size=evaluation_batch_size(context.config.train),
            batches=batches,
            ranks=context.ranks,
        )

    def _evaluate_split(self, split: SplitName, batches: int) -> Generator[Event, None, Evaluation]:
        return (yield from self._run_on_all("evaluate", self._evaluation, split=split, batches=batches))

    def _evaluation(self, split: SplitName, batches: int) -> Generator[Progress, None, Evaluation]:
        context = self.context
        return evaluate(
            context.state.model,
            context.dataset.validation if split == "validation" else context.dataset.train,
            context.dataset.tokenizer,
            context.plan,
            seq_len=context.batch_plan.seq_len,
            batch_size=evaluation_batch_size(context.config.train),
            batches=batches,
            packing=context.config.tune.packing,
            stage=f"Evaluating {'held-out' if split == 'validation' else 'training'} text",
            ranks=context.ranks,
        )

    def core(self, command_id: str = "") -> Iterator[Event]:
        """Measure the CORE metric, which takes minutes. A stop request ends it without a result."""
        examples = self.context.config.evaluate.core_examples
        result = yield from self._run_on_all("core", self._core_scores, examples=examples)
        if result is not None:
            self.done_at["core"] = self.context.state.step
            yield self.context.event(
                CoreEvaluated, core_metric=result.core_metric, tasks=result.accuracy, centred=result.centred
            )

    def _core_scores(self, examples: int) -> Generator[Progress, None, CoreResult | None]:
        context = self.context
        return evaluate_core(
            context.state.model,
            context.dataset.tokenizer,
            context.core_tasks,
            context.plan,
            batch_tokens=evaluation_batch_size(context.config.train) * context.batch_plan.seq_len,
            max_examples=examples,
            ranks=context.ranks,
            should_stop=self.is_stop_requested,
        )

    def answers(self, command_id: str = "") -> Iterator[Event]:
        """Measure exact answers. A stop request ends it without a result."""
        context, model = self.context, whole_model(self.context)
        tokenizer, tune = context.dataset.tokenizer, context.config.tune
        judge = TASKS[tune.task].is_solved if tune.stage == "grpo" else has_right_answer
        template = tokenizer.chat_template
        assert template is not None, "a stage of fine-tuning has a chat template"
        with evaluation_mode(model):
            work = measure_answers(Engine(model, tokenizer), template, self.questions, judge)
            result = yield from self._report_progress(until_stopped(work, self.is_stop_requested))
        if result is not None:
            self.done_at["answers"] = context.state.step
            kinds = {kind: result.accuracy_of(kind) for kind in result.asked}
            yield context.event(
                AnswersEvaluated, exact_answers=result.accuracy, kinds=kinds, questions=result.questions
            )

    @cached_property
    def questions(self) -> list[Question]:
        """The held-out questions whose exact answers are measured."""
        return held_out_questions(self.context.config)

    def _run_on_all(
        self, name: str, work: Callable[..., Generator[Progress, None, Result]], **arguments: Any
    ) -> Generator[Event, None, Result]:
        """Run `work`, which is also the handler `name`, on all ranks, which share it; yields its progress as events of
        this step, and returns its result."""
        progress = self.context.ranks.run_on_all(name, lambda: work(**arguments), **arguments)
        return (yield from self._report_progress(progress))

    def _report_progress(self, work: Generator[Progress, None, Result]) -> Generator[Event, None, Result]:
        """Yield the progress of `work` as events of this step; its result."""
        while True:
            try:
                yield replace(next(work), step=self.context.state.step)
            except StopIteration as end:
                result: Result = end.value
                return result
