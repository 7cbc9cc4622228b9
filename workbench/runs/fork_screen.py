"""The form of a fork: the configuration of the parent, with the differences on top."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from llm.config import RunConfig, diff
from llm.errors import ConfigError, Problem
from llm.events import Started
from llm.run.fork import Parent, fork_problems, keeps_optimizer_state
from llm.run.log import last_event_of
from workbench.presets.edit_screen import EditResult, EditScreen
from workbench.presets.summary import change_text
from workbench.text import clean
from workbench.ui.notices import notify_error

DIFF_LINES = 5


@dataclass(frozen=True)
class ForkResult(EditResult):
    """The configuration of the fork; `enqueue` adds it to the queue instead of starting it."""

    weights_only: bool = False
    enqueue: bool = False


class ForkScreen(EditScreen):
    """The edit form for a run that starts from a checkpoint."""

    BASE = "parent"
    GUIDE = (
        "A new run that starts from a checkpoint. Change the fields that should differ; the top shows the differences "
        "from the parent and the step where the fork starts. ctrl+r trains it, Q adds it to the queue; w takes the "
        "weights only, with a new optimizer state, and counts the steps from 0."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "train", "Train", id="fork.train"),
        Binding("Q", "enqueue", "Enqueue", id="fork.queue"),
        Binding("w", "weights_only", "Weights only", id="fork.weights"),
        Binding("d", "reset", "Reset", id="fork.reset"),
    ]

    def __init__(self, home: Path, parent: Parent, config: RunConfig) -> None:
        super().__init__(home, f"fork of {parent.reference}", parent.config, config)
        self.parent_checkpoint = parent
        self.weights_only = False

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A fork cannot be saved as a preset."""
        return False if action == "save_as" else super().check_action(action, parameters)

    def problems(self) -> list[Problem]:
        return fork_problems(self.parent_checkpoint, self.config, weights_only=self.weights_only)

    def _show_title(self) -> None:
        super()._show_title()
        changes = diff(self.base, self.config)
        lines = [Content.styled(clean(f"{self.preset_name}: {self.describe_start()}"), "bold")]
        for path, before, after in changes[:DIFF_LINES]:
            lines.append(Content.assemble((f"  {path} ", "$text-warning"), change_text(before, after)))
        if len(changes) > DIFF_LINES:
            lines.append(Content(f"  and {len(changes) - DIFF_LINES} more"))
        self.query_one("#edit-title", Static).update(Content("\n").join(lines))

    def describe_start(self) -> str:
        """Where the fork starts, in words."""
        if self.weights_only:
            return "weights only, from step 0"
        if keeps_optimizer_state(self.parent_checkpoint, self.config):
            return f"continues at step {self.parent_checkpoint.checkpoint.step:,} with its optimizer state"
        return "weights only, from step 0, since the optimizer changes"

    def action_weights_only(self) -> None:
        """Take the weights only, or the optimizer state too."""
        self.weights_only = not self.weights_only
        self._show_title()

    def action_train(self) -> None:
        self._leave(enqueue=False)

    def action_enqueue(self) -> None:
        self._leave(enqueue=True)

    def _leave(self, *, enqueue: bool) -> None:
        if not self._apply_input():
            return
        if problems := self.problems():
            notify_error(self.app, ConfigError(problems))
            return
        self.dismiss(ForkResult(self.config, start=True, weights_only=self.weights_only, enqueue=enqueue))


def initial_config(parent: Parent) -> RunConfig:
    """The configuration to edit: that of the parent, with twice the steps if all of its steps are done."""
    config, step = parent.config, parent.checkpoint.step
    started = last_event_of(parent.run.path / "events.jsonl", Started)
    if 0 < config.train.steps <= step or (config.train.minutes and started and started.total_steps <= step):
        return replace(config, train=replace(config.train, steps=2 * step, minutes=0.0))
    return config
