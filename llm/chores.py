"""What a run does besides stepping: evaluate, measure CORE, sample, save, snapshot. Each is a generator of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from llm.checkpoint import TrainerState, save_state, save_weights
from llm.config import RunConfig
from llm.core.bundle import Task
from llm.core.score import evaluate_core
from llm.data.prepare import Dataset
from llm.device import Plan
from llm.engine import Engine, Piece
from llm.errors import UserError
from llm.evaluate import Evaluation, evaluate
from llm.events import CommandRefused, CoreEvaluated, Evaluated, Event, Sampled, Saved, Warned
from llm.files import directory_size, remove_directory
from llm.length import Length
from llm.run import Run
from llm.run.checkpoints import prune

TRAIN_BATCHES = 20  # of training text to evaluate on, where all of the held-out text is

Say = Callable[..., Event]


class Chores:
    """Works on the state between two steps and leaves it as it was, but for its metrics.

    `say` makes an event of the present step. `done_at` remembers the step at which each chore was last done.
    """

    def __init__(
        self,
        run: Run,
        state: TrainerState,
        dataset: Dataset,
        plan: Plan,
        length: Length,
        core_tasks: Sequence[Task],
        say: Say,
    ) -> None:
        self.run = run
        self.state = state
        self.dataset = dataset
        self.plan = plan
        self.length = length
        self.core_tasks = core_tasks
        self.say = say
        # A checkpoint holds a validation result only of its own step: a restored one need not be found again.
        self.done_at: dict[str, int] = {"evaluate": state.step} if "validation_loss" in state.metrics else {}

    def is_done(self, chore: str) -> bool:
        """Whether `chore` was done since the last step."""
        return self.done_at.get(chore) == self.state.step

    def evaluate(self, config: RunConfig, command_id: str = "") -> Iterator[Event]:
        result = self._evaluation(config, self.dataset.validation, config.evaluate.batches)
        train_loss = None
        if config.evaluate.train_too:
            train_loss = self._evaluation(config, self.dataset.train, config.evaluate.batches or TRAIN_BATCHES).loss
        best = self.state.best_validation_loss is None or result.loss < self.state.best_validation_loss
        if best:
            self.state.best_validation_loss = result.loss
        measured = {
            "validation_loss": result.loss,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
        }
        self.state.metrics |= measured
        self.done_at["evaluate"] = self.state.step
        yield self.say(
            Evaluated, **measured, tokens=result.tokens, train_loss=train_loss, best=best, command_id=command_id
        )

    def _evaluation(self, config: RunConfig, split: Any, batches: int) -> Evaluation:
        return evaluate(
            self.state.model,
            split,
            self.dataset.tokenizer,
            self.plan,
            seq_len=self.length.seq_len,
            batch_size=config.train.batch_size,
            batches=batches,
        )

    def core(self, config: RunConfig, stop_is_waiting: Callable[[], bool]) -> Iterator[Event]:
        """Measure the CORE metric, with its progress as it takes minutes; a stop that comes meanwhile ends it."""
        scoring = evaluate_core(
            self.state.model,
            self.dataset.tokenizer,
            self.core_tasks,
            self.plan,
            batch_tokens=config.train.batch_size * self.length.seq_len,
            max_examples=config.evaluate.core_examples,
        )
        try:
            while not stop_is_waiting():
                yield next(scoring)
        except StopIteration as end:
            result = end.value
            self.done_at["core"] = self.state.step
            yield self.say(CoreEvaluated, core_metric=result.core_metric, tasks=result.accuracy, centred=result.centred)
        finally:
            scoring.close()

    def sample(self, config: RunConfig, command_id: str = "") -> Iterator[Event]:
        knobs = replace(config.decode, max_tokens=config.sample.max_tokens)
        self.state.model.eval()
        try:
            engine = Engine(self.state.model, self.dataset.tokenizer)
            pieces = engine.stream(config.sample.prompt, knobs, num_samples=1)
            text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
        finally:
            self.state.model.train()
        yield self.say(Sampled, prompt=config.sample.prompt, text=text, command_id=command_id)

    def save(self, config: RunConfig, command_id: str = "") -> Iterator[Event]:
        """Save; what prevents it is a warning, and the next due save tries again."""
        fresh = self.is_done("evaluate")
        if not fresh:  # a checkpoint must not carry the validation result of another step
            for name in ("validation_loss", "perplexity", "bits_per_byte"):
                self.state.metrics.pop(name, None)
        try:
            info = save_state(self.run, self.state)
        except (OSError, UserError) as error:
            yield self.say(Warned, message=f"not saved: {error}")
            return
        self.done_at["save"] = self.state.step
        best = fresh and self.state.best_validation_loss == self.state.metrics["validation_loss"]
        path = str(info.path.relative_to(self.run.path))
        yield self.say(Saved, path=path, size_bytes=info.size_bytes, best=best, command_id=command_id)
        try:
            prune(self.run.checkpoint_directory, config.checkpoint.keep, self.run.meta()["pins"])
        except (OSError, UserError) as error:
            yield self.say(Warned, message=f"older checkpoints were not removed: {error}")

    def snapshot(self, command_id: str) -> Iterator[Event]:
        """Publish the weights as they are now, for a chat in another process."""
        target = self.run.path / "live" / f"step-{self.state.step:08d}"
        try:
            for old in (self.run.path / "live").glob("step-*"):
                if old != target:
                    remove_directory(old)
            save_weights(target, self.state.model, self.state.step)
        except OSError as error:
            yield self.say(CommandRefused, command="snapshot", reason=str(error), command_id=command_id)
            return
        path = str(target.relative_to(self.run.path))
        yield self.say(Saved, path=path, size_bytes=directory_size(target), kind="snapshot", command_id=command_id)
