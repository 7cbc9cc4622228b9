"""The tasks between steps, on a schedule or on command: evaluate, sample, save, publish a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from llm.config import RunConfig
from llm.engine import Piece
from llm.events import CommandRefused, Event, Sampled, Saved
from llm.files import directory_size, remove_directory
from llm.tokenizer import Tokenizer
from llm.tokenizer.chat_template import Message
from llm.training.checkpoint import publish_weights
from llm.training.context import TrainingContext
from llm.training.measurements import Measurements
from llm.training.model_views import all_weights, sampling_engine, view_handlers
from llm.training.saver import Saver

DEFAULT_QUESTION = "Hello!"


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
    """`prompt`, or in a fine-tuning stage the tokens of a chat with `prompt` as the user's message."""
    template = tokenizer.chat_template
    if template is None or config.tune.stage == "pretrain":
        return prompt
    return template.prompt_ids(tokenizer, [Message("user", prompt)])


class Tasks:
    """Runs tasks on the state between two steps. They change nothing in it but `metrics` and `best_validation_loss`.

    `done_at` holds the step at which each task last ran.
    """

    def __init__(self, context: TrainingContext, is_stop_requested: Callable[[], bool]) -> None:
        self.context = context
        self.saver = Saver(context)
        self.done_at = {"sample": context.state.step}  # the step of a checkpoint was sampled if that was due
        self.measurements = Measurements(context, is_stop_requested, self.done_at)

    def handlers(self) -> dict[str, Callable[..., object]]:
        """The handlers of the other ranks for the tasks of rank 0, by name (`Ranks.run_on_all`)."""
        return {
            **self.measurements.handlers(),
            **view_handlers(self.context),
            "save": self.saver.write_part,
        }

    def table(self) -> dict[str, Task]:
        """Every task with its schedule under the current settings, in the order in which they run.

        A save comes last, so that a checkpoint holds the evaluation of its step. The save after the last step is not in
        the table, since the end of training depends on its success.
        """
        config, step, measurements = self.context.config, self.context.state.step, self.measurements
        core_every = config.evaluate.core_every if self.context.core_tasks else 0
        answers_every = config.evaluate.answers_every if config.tune.stage != "pretrain" else 0
        samples, only_improved = config.sample.every, config.checkpoint.only_improved
        return {
            "evaluate": Task(
                measurements.evaluate, config.evaluate.every, at_start=config.evaluate.at_start, at_end=True
            ),
            "core": Task(measurements.core, core_every, at_end=core_every > 0, is_command=False),
            "answers": Task(
                measurements.answers,
                answers_every,
                at_start=answers_every > 0 and config.evaluate.at_start,
                at_end=answers_every > 0,
                is_command=False,
            ),
            "sample": Task(self.sample, samples, at_start=samples > 0, at_end=samples > 0),
            "save": Task(
                self.save,
                0 if only_improved else config.checkpoint.every,
                is_due_now=only_improved and measurements.improved_at == step,
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
        """Whether a task is scheduled after the current step."""
        task, step = self.table()[name], self.context.state.step
        if name == "save" and step >= self.context.batch_plan.steps:
            return False
        return task.is_due_now or (task.every > 0 and step % task.every == 0)

    def is_done(self, name: str) -> bool:
        """Whether a task ran since the last step."""
        return self.done_at.get(name) == self.context.state.step

    @property
    def is_saved(self) -> bool:
        """Whether the current step is saved."""
        return self.saver.saved_step == self.context.state.step

    @property
    def saves_unasked(self) -> bool:
        """Whether checkpoints are saved on a schedule, and not only at the end or with a better evaluation."""
        return self.context.config.checkpoint.every > 0 and not self.context.config.checkpoint.only_improved

    def sample(self, command_id: str = "") -> Iterator[Event]:
        config = self.context.config
        params = replace(config.decode, max_tokens=config.sample.max_tokens)
        tokenizer = self.context.dataset.tokenizer
        prompt = config.sample.prompt or self._default_prompt()
        with sampling_engine(self.context) as engine:
            pieces = engine.stream(sample_prompt(config, tokenizer, prompt), params, num_samples=1)
            text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
        self.done_at["sample"] = self.context.state.step
        yield self.context.event(Sampled, prompt=prompt, text=text, command_id=command_id)

    def _default_prompt(self) -> str:
        """The prompt of a sample where `sample.prompt` is empty: for grpo a question of its task."""
        stage = self.context.config.tune.stage
        if stage == "grpo":
            return self.measurements.questions[0].messages[-1].content
        return "" if stage == "pretrain" else DEFAULT_QUESTION

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
        """Publish the current weights, for a chat in another process."""
        context, live = self.context, self.context.run.path / "live"
        target = live / f"step-{context.state.step:08d}"
        try:
            for old in live.glob("step-*"):
                if old != target:
                    remove_directory(old)
            publish_weights(target, all_weights(context), context.state.step)
        except OSError as error:
            yield context.event(CommandRefused, command="snapshot", reason=str(error), command_id=command_id)
            return
        path = str(target.relative_to(context.run.path))
        yield context.event(Saved, path=path, size_bytes=directory_size(target), kind="snapshot", command_id=command_id)
