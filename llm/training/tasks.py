"""What a run does between steps, on a schedule or on command: evaluate, measure CORE, sample, save, take a snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

from torch import Tensor

from llm.answers import has_right_answer, measure_answers
from llm.config import RunConfig, evaluation_batch_size
from llm.core.score import CoreResult, evaluate_core
from llm.data.text.dialogues import Question
from llm.engine import Engine, Piece
from llm.events import (
    AnswersEvaluated,
    CommandRefused,
    CoreEvaluated,
    Evaluated,
    Event,
    MetricsLogged,
    Progress,
    Sampled,
    Saved,
)
from llm.files import directory_size, remove_directory
from llm.model.adapters import merged_weights
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.tokenizer.chat_template import Message
from llm.tokenizer.textbytes import TextBytes
from llm.training.checkpoint import publish_weights
from llm.training.context import TrainingContext
from llm.training.dpo import PairEvaluation, evaluate_pairs
from llm.training.evaluate import Evaluation, evaluate, evaluation_mode
from llm.training.rewards import TASKS, held_out_questions
from llm.training.saver import Saver
from llm.training.sharded_sampling import ShardedReader, next_token_logits
from llm.training.state import whole_weights

Result = TypeVar("Result")
DEFAULT_QUESTION = "Hello!"
SplitName = Literal["train", "validation"]

TRAIN_BATCHES = (
    20  # batches of training text to evaluate on where `evaluate.batches` is 0, which means all held-out text
)


@dataclass(frozen=True)
class Task:
    """One task: `run(command_id)` yields its events, and the other fields are its schedule.

    It runs before the first step (`at_start`), every `every` steps (0 = never), when `is_due_now`, and after the last
    step (`at_end`) unless that step has run it already.
    """

    run: Callable[[str], Iterator[Event]]
    every: int = 0
    at_start: bool = False
    at_end: bool = False
    is_due_now: bool = False
    is_command: bool = True


def sample_prompt(config: RunConfig, tokenizer: Tokenizer, prompt: str) -> str | list[int]:
    """The prompt of a sample, as a question once the model is trained on conversations."""
    template = tokenizer.chat_template
    if template is None or config.tune.stage == "pretrain":
        return prompt
    return template.prompt_ids(tokenizer, [Message("user", prompt)])


def until_stopped(
    work: Generator[Progress, None, Result], should_stop: Callable[[], bool]
) -> Generator[Progress, None, Result | None]:
    """The progress of `work` and its result, or None once `should_stop` is true."""
    with closing(work):
        while not should_stop():
            try:
                yield next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
    return None


class Tasks:
    """Runs tasks on the state between two steps. They change nothing in it but `metrics` and `best_validation_loss`.

    `done_at` holds the step at which each task last ran, and `improved_at` that of the best evaluation, if the last
    evaluation was the best.
    """

    def __init__(self, context: TrainingContext, is_stop_requested: Callable[[], bool]) -> None:
        self.context = context
        self.is_stop_requested = is_stop_requested
        self.saver = Saver(context)
        self.improved_at = -1
        # A checkpoint's validation result is that of its own step, and the step was sampled if that was due.
        self.done_at = {"sample": context.state.step}
        if "validation_loss" in context.state.metrics:
            self.done_at["evaluate"] = context.state.step

    def table(self) -> dict[str, Task]:
        """Every task with its schedule under the present settings, in the order in which they run.

        A save comes last, so that a checkpoint holds the evaluation of its step. The save after the last step is not in
        the table, since the end of training depends on its success.
        """
        config, step = self.context.config, self.context.state.step
        core_every = config.evaluate.core_every if self.context.core_tasks else 0
        answers_every = config.evaluate.answers_every if config.tune.stage != "pretrain" else 0
        samples, only_improved = config.sample.every, config.checkpoint.only_improved
        return {
            "evaluate": Task(self.evaluate, config.evaluate.every, at_start=config.evaluate.at_start, at_end=True),
            "core": Task(self.core, core_every, at_end=core_every > 0, is_command=False),
            "answers": Task(
                self.answers,
                answers_every,
                at_start=answers_every > 0 and config.evaluate.at_start,
                at_end=answers_every > 0,
                is_command=False,
            ),
            "sample": Task(self.sample, samples, at_start=samples > 0, at_end=samples > 0),
            "save": Task(
                self.save,
                0 if only_improved else config.checkpoint.every,
                is_due_now=only_improved and self.improved_at == step,
            ),
            "snapshot": Task(self.snapshot),
        }

    def run_at_start(self) -> Iterator[Event]:
        for task in self.table().values():
            if task.at_start:
                yield from task.run("")

    def run_at_end(self) -> Iterator[Event]:
        for name, task in self.table().items():
            if task.at_end and not self.is_done(name):
                yield from task.run("")

    def run_due(self) -> Iterator[Event]:
        for name in self.table():
            if self.is_due(name):
                yield from self.table()[name].run("")

    def is_due(self, name: str) -> bool:
        """Whether the schedule asks for a task after the present step."""
        task, step = self.table()[name], self.context.state.step
        if name == "save" and step >= self.context.batch_plan.steps:
            return False
        return task.is_due_now or (task.every > 0 and step % task.every == 0)

    def is_done(self, name: str) -> bool:
        """Whether a task ran since the last step."""
        return self.done_at.get(name) == self.context.state.step

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint of the present step exists."""
        return self.saver.saved_step == self.context.state.step

    def evaluate(self, command_id: str = "") -> Iterator[Event]:
        context, settings = self.context, self.context.config.evaluate
        if context.references is not None:
            yield from self._evaluate_pairs(command_id)
            return
        result = yield from self._evaluate_split("validation", settings.batches)
        train_loss = None
        if settings.train_too:
            train_loss = (yield from self._evaluate_split("train", settings.batches or TRAIN_BATCHES)).loss
        metrics = {
            "validation_loss": result.loss,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
        }
        best = self._record_evaluation(metrics)
        yield context.event(
            Evaluated, **metrics, tokens=result.tokens, train_loss=train_loss, best=best, command_id=command_id
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
        """Evaluate preference tuning: the loss of held-out pairs; perplexity and bits are those of a chosen token."""
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

    def _run_on_all(
        self, name: str, work: Callable[..., Generator[Progress, None, Result]], **arguments: Any
    ) -> Generator[Event, None, Result]:
        """Do `work`, which is the handler of that name, on all ranks, each its share of it; yields its progress as
        events of this step, and returns its result."""
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

    def handlers(self) -> dict[str, Callable[..., object]]:
        """What other ranks do for the tasks of rank 0, by name (`Ranks.run_on_all`)."""
        state = self.context.state
        return {
            "evaluate": lambda split, batches: list(self._evaluation(split, batches)),
            "evaluate pairs": lambda batches: list(self._pair_evaluation(batches)),
            "core": lambda examples: list(self._core_scores(examples)),
            "forward": lambda tokens: next_token_logits(state.model, self.context.plan, tokens),
            "save": self.saver.write_part,
            "gather weights": lambda: list(whole_weights(state)),
        }

    def _whole_weights(self) -> dict[str, Tensor]:
        """The weights, with adapters merged; of a sharded state gathered from all ranks."""
        state = self.context.state
        if state.sharding is None:
            return merged_weights(state.model)
        gathered = self.context.ranks.run_on_all("gather weights", lambda: list(whole_weights(state)))
        return {name: tensor for name, tensor in gathered if tensor is not None}

    def _whole_model(self) -> Transformer:
        """The model in training; of a sharded one a copy with all weights, which rank 0 alone can run, and of one with
        adapters a copy in which they are merged."""
        state = self.context.state
        if state.sharding is None and state.model.lora is None:
            return state.model
        model = Transformer(state.model.config, kernels=self.context.config.train.kernels)
        model.load_state_dict(self._whole_weights())
        return model.to(self.context.plan.device)

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
        context, model = self.context, self._whole_model()
        tokenizer, tune = context.dataset.tokenizer, context.config.tune
        judge = TASKS[tune.task].is_solved if tune.stage == "grpo" else has_right_answer
        template = tokenizer.chat_template
        assert template is not None, "a stage of fine-tuning has a chat template"
        with evaluation_mode(model):
            work = measure_answers(Engine(model, tokenizer), template, self._questions, judge)
            result = yield from self._report_progress(until_stopped(work, self.is_stop_requested))
        if result is not None:
            self.done_at["answers"] = context.state.step
            kinds = {kind: result.accuracy_of(kind) for kind in result.asked}
            yield context.event(
                AnswersEvaluated, exact_answers=result.accuracy, kinds=kinds, questions=result.questions
            )

    @cached_property
    def _questions(self) -> list[Question]:
        """The held-out questions whose exact answers are measured."""
        return held_out_questions(self.context.config)

    def sample(self, command_id: str = "") -> Iterator[Event]:
        config = self.context.config
        params = replace(config.decode, max_tokens=config.sample.max_tokens)
        tokenizer = self.context.dataset.tokenizer
        prompt = config.sample.prompt or self._default_prompt()
        with self._engine() as engine:
            pieces = engine.stream(sample_prompt(config, tokenizer, prompt), params, num_samples=1)
            text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
        self.done_at["sample"] = self.context.state.step
        yield self.context.event(Sampled, prompt=prompt, text=text, command_id=command_id)

    def _default_prompt(self) -> str:
        """The prompt of a sample where `sample.prompt` is empty: for grpo a question of its task."""
        stage = self.context.config.tune.stage
        if stage == "grpo":
            return self._questions[0].messages[-1].content
        return "" if stage == "pretrain" else DEFAULT_QUESTION

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        """An engine with the present weights."""
        context, model = self.context, self.context.state.model
        if context.state.sharding is None:
            with evaluation_mode(model):
                yield Engine(model, context.dataset.tokenizer)
        else:
            reader = cast(Transformer, ShardedReader(model, context.plan, context.ranks))
            yield Engine(reader, context.dataset.tokenizer, use_cache=False)

    def save(self, command_id: str = "", *, at_once: bool = False) -> Iterator[Event]:
        """Start to save in the background; `saver.report` yields the result. The next save due retries a failed one.

        at_once: as in `Saver.start`.
        """
        state = self.context.state
        is_evaluated = self.is_done("evaluate")
        if not is_evaluated:  # a checkpoint must not carry the validation result of another step
            for name in ("validation_loss", "perplexity", "bits_per_byte"):
                state.metrics.pop(name, None)
        best = is_evaluated and state.best_validation_loss == state.metrics["validation_loss"]
        self.context.update_elapsed()
        yield from self.saver.start(best, command_id, at_once=at_once)

    def snapshot(self, command_id: str = "") -> Iterator[Event]:
        """Publish the present weights, for a chat in another process."""
        context, live = self.context, self.context.run.path / "live"
        target = live / f"step-{context.state.step:08d}"
        try:
            for old in live.glob("step-*"):
                if old != target:
                    remove_directory(old)
            publish_weights(target, self._whole_weights(), context.state.step)
        except OSError as error:
            yield context.event(CommandRefused, command="snapshot", reason=str(error), command_id=command_id)
            return
        path = str(target.relative_to(context.run.path))
        yield context.event(Saved, path=path, size_bytes=directory_size(target), kind="snapshot", command_id=command_id)
