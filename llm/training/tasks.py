"""What a run does besides stepping: evaluate, measure CORE, sample, save, snapshot. Each is a generator of events."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TypeVar

from llm.core.score import evaluate_core
from llm.data.tokens.shards import TokenSplit
from llm.engine import Engine, Piece
from llm.events import CommandRefused, CoreEvaluated, Evaluated, Event, Progress, Sampled, Saved
from llm.files import directory_size, remove_directory
from llm.training.checkpoint import publish_weights
from llm.training.context import TrainingContext
from llm.training.evaluate import Evaluation, evaluate
from llm.training.saver import Saver

Result = TypeVar("Result")

TRAIN_BATCHES = 20  # of training text to evaluate on, where all of the held-out text is


class Tasks:
    """Works on the state between two steps and leaves it as it was, but for its metrics.

    `done_at` remembers the step at which each chore was last done.
    """

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.saver = Saver(context)
        # A checkpoint holds a validation result only of its own step: a restored one need not be found again.
        self.done_at: dict[str, int] = (
            {"evaluate": context.state.step} if "validation_loss" in context.state.metrics else {}
        )
        self.done_at["sample"] = context.state.step  # whoever made that step has sampled, if that was due

    def is_done(self, chore: str) -> bool:
        """Whether `chore` was done since the last step."""
        return self.done_at.get(chore) == self.context.state.step

    @property
    def is_saved(self) -> bool:
        """Whether the present step is on the disk."""
        return self.saver.saved_step == self.context.state.step

    def evaluate(self, command_id: str = "") -> Iterator[Event]:
        context, state, dataset = self.context, self.context.state, self.context.dataset
        knobs = context.config.evaluate
        result = yield from self._evaluation(dataset.validation, knobs.batches, "Evaluating the held-out text")
        train_loss = None
        if knobs.train_too:
            batches = knobs.batches or TRAIN_BATCHES
            train_loss = (yield from self._evaluation(dataset.train, batches, "Evaluating training text")).loss
        best = state.best_validation_loss is None or result.loss < state.best_validation_loss
        if best:
            state.best_validation_loss = result.loss
        measured = {
            "validation_loss": result.loss,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
        }
        state.metrics |= measured
        self.done_at["evaluate"] = state.step
        yield context.event(
            Evaluated, **measured, tokens=result.tokens, train_loss=train_loss, best=best, command_id=command_id
        )

    def _evaluation(self, split: TokenSplit, batches: int, stage: str) -> Generator[Event, None, Evaluation]:
        measuring = evaluate(
            self.context.state.model,
            split,
            self.context.dataset.tokenizer,
            self.context.plan,
            seq_len=self.context.batch_plan.seq_len,
            batch_size=self.context.config.train.batch_size,
            batches=batches,
            stage=stage,
        )
        result = yield from self._told(measuring)
        assert result is not None
        return result

    def core(self, is_stop_requested: Callable[[], bool]) -> Iterator[Event]:
        """Measure the CORE metric, which takes minutes; a stop that comes meanwhile ends it."""
        context = self.context
        scoring = evaluate_core(
            context.state.model,
            context.dataset.tokenizer,
            context.core_tasks,
            context.plan,
            batch_tokens=context.config.train.batch_size * context.batch_plan.seq_len,
            max_examples=context.config.evaluate.core_examples,
        )
        result = yield from self._told(scoring, is_stop_requested)
        if result is not None:
            self.done_at["core"] = context.state.step
            yield context.event(
                CoreEvaluated, core_metric=result.core_metric, tasks=result.accuracy, centred=result.centred
            )

    def _told(
        self, work: Generator[Progress, None, Result], ends: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Result | None]:
        """Tell the progress of work that comes after the present step; None when `ends` said so before it was done."""
        try:
            while not ends():
                yield replace(next(work), step=self.context.state.step)
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            work.close()
        return None

    def sample(self, command_id: str = "") -> Iterator[Event]:
        config, model = self.context.config, self.context.state.model
        knobs = replace(config.decode, max_tokens=config.sample.max_tokens)
        model.eval()
        try:
            engine = Engine(model, self.context.dataset.tokenizer)
            pieces = engine.stream(config.sample.prompt, knobs, num_samples=1)
            text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
        finally:
            model.train()
        self.done_at["sample"] = self.context.state.step
        yield self.context.event(Sampled, prompt=config.sample.prompt, text=text, command_id=command_id)

    def save(self, command_id: str = "") -> Iterator[Event]:
        """Begin to save; what becomes of it is told by `saver.outcome`. The next due save tries again what failed."""
        state = self.context.state
        fresh = self.is_done("evaluate")
        if not fresh:  # a checkpoint must not carry the validation result of another step
            for name in ("validation_loss", "perplexity", "bits_per_byte"):
                state.metrics.pop(name, None)
        best = fresh and state.best_validation_loss == state.metrics["validation_loss"]
        self.context.update_elapsed()
        yield from self.saver.begin(best, command_id)

    def snapshot(self, command_id: str) -> Iterator[Event]:
        """Publish the weights as they are now, for a chat in another process."""
        context, live = self.context, self.context.run.path / "live"
        target = live / f"step-{context.state.step:08d}"
        try:
            for old in live.glob("step-*"):
                if old != target:
                    remove_directory(old)
            publish_weights(target, context.state.model, context.state.step)
        except OSError as error:
            yield context.event(CommandRefused, command="snapshot", reason=str(error), command_id=command_id)
            return
        path = str(target.relative_to(context.run.path))
        yield context.event(Saved, path=path, size_bytes=directory_size(target), kind="snapshot", command_id=command_id)
