"""The form of a fork: the parent's configuration to be changed, with the difference always in sight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from llm.config import RunConfig, diff
from llm.errors import Problem
from llm.run.fork import Parent, goes_on, problems_with
from workbench.presets.edit_screen import EditResult, EditScreen
from workbench.presets.summary import shown
from workbench.text import clean

DIFF_LINES = 5


@dataclass(frozen=True)
class ForkResult(EditResult):
    """What to fork; `enqueue` puts it in line instead of starting it."""

    weights_only: bool = False
    enqueue: bool = False


class ForkScreen(EditScreen):
    """The edit form on top of a checkpoint."""

    BASE = "parent"
    GUIDE = (
        "A new run that begins with the weights of a checkpoint. Change what is to be different; the difference from "
        "the parent and where the fork goes on are shown on top. ctrl+r trains it, Q puts it in the queue; w leaves "
        "the optimiser's state behind and counts the steps from 0."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "train", "Train", id="fork.train"),
        Binding("Q", "enqueue", "Queue", id="fork.queue"),
        Binding("w", "weights_only", "Weights only", id="fork.weights"),
        Binding("d", "reset", "Reset", id="fork.reset"),
    ]

    def __init__(self, home: Path, parent: Parent, config: RunConfig) -> None:
        super().__init__(home, f"fork of {parent.reference}", parent.config, config)
        self.parent_checkpoint = parent
        self.weights_only = False

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A fork is no preset: nothing to save it as."""
        return False if action == "save_as" else super().check_action(action, parameters)

    def problems(self) -> list[Problem]:
        return problems_with(self.parent_checkpoint, self.config, weights_only=self.weights_only)

    def _show_title(self) -> None:
        super()._show_title()
        changes = diff(self.base, self.config)
        lines = [Content.styled(clean(f"{self.preset_name}: {self.beginning()}"), "bold")]
        for path, before, after in changes[:DIFF_LINES]:
            lines.append(
                Content.assemble((f"  {path} ", "$text-warning"), f"{shown(before)} → ", (shown(after), "bold"))
            )
        if len(changes) > DIFF_LINES:
            lines.append(Content(f"  and {len(changes) - DIFF_LINES} more"))
        self.query_one("#edit-title", Static).update(Content("\n").join(lines))

    def beginning(self) -> str:
        """Where the fork would go on, in words."""
        if self.weights_only:
            return "weights only, from step 0"
        if goes_on(self.parent_checkpoint, self.config):
            return f"goes on at step {self.parent_checkpoint.checkpoint.step:,} with its optimiser state"
        return "weights only, from step 0, since the optimiser changes"

    def action_weights_only(self) -> None:
        """Take the optimiser's state along, or not."""
        self.weights_only = not self.weights_only
        self._show_title()

    def action_train(self) -> None:
        self._leave(enqueue=False)

    def action_enqueue(self) -> None:
        self._leave(enqueue=True)

    def _leave(self, *, enqueue: bool) -> None:
        if not self._take_typed():
            return
        if problems := self.problems():
            self.notify(clean("\n".join(map(str, problems))), severity="error", markup=False)
            return
        self.dismiss(ForkResult(self.config, start=True, weights_only=self.weights_only, enqueue=enqueue))


def proposed(parent: Parent) -> RunConfig:
    """The configuration to begin editing with: the parent's, twice as long where it would have nothing left to do."""
    config, step = parent.config, parent.checkpoint.step
    if 0 < config.train.steps <= step:
        return replace(config, train=replace(config.train, steps=2 * step))
    return config
