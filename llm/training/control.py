"""Obeying what a person asks of a run in training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from llm.config import with_overrides
from llm.errors import ConfigError
from llm.events import CommandRefused, Event, KnobSet, Paused, Resumed
from llm.run import Command
from llm.training.commands import STOP, CommandQueue, set_live_field
from llm.training.context import TrainingContext
from llm.training.metrics import StepMetrics
from llm.training.recovery import Reason, Recovery
from llm.training.tasks import Tasks

PAUSE_SECONDS = 0.05
REFUSALS = {"pause": "it is paused already", "resume": "it is not paused"}


class CommandHandler:
    """Carries out commands between two steps. Of several ranks the first alone hears them; what they mean for the
    others is shared with them, so that all stay in step.

    `stop` is the command that ends the training, once it came; `recover` why the state must be rolled back now.
    """

    def __init__(
        self, context: TrainingContext, commands: CommandQueue, tasks: Tasks, results: StepMetrics, recovery: Recovery
    ) -> None:
        self.context = context
        self.commands = commands
        self.tasks = tasks
        self.results = results
        self.recovery = recovery
        self.stop: Command | None = None
        self.stopped_in_pause = False
        self.recover: Reason = ""
        self.newly_set: list[tuple[str, str]] = []

    def agree(self) -> Iterator[Event]:
        """Obey what was asked since the last step, and tell the other ranks."""
        ranks = self.context.ranks
        if ranks.is_first:
            yield from self.tasks.saver.outcome()
            with self.results.exclude_time():
                yield from self._obey()
            self.recover = self.recovery.due
            if self.recover:  # the other ranks look for checkpoints too: none may be in the making
                yield from self.tasks.saver.outcome(wait=True)
        if ranks.world_size > 1:
            self._share()
        self.newly_set = []

    def _share(self) -> None:
        mine = {"stop": self.stop is not None, "set": self.newly_set, "recover": self.recover}
        decided = self.context.ranks.broadcast(mine)
        if not self.context.ranks.is_first:
            self.context.config = with_overrides(self.context.config, [(key, text) for key, text in decided["set"]])
            self.stop = Command("stop", "") if decided["stop"] else None
            self.recover = decided["recover"]

    def _obey(self) -> Iterator[Event]:
        """Carry out what was asked since the last step; while paused, wait here."""
        self.commands.poll()
        paused_at = 0.0
        while self.stop is None:
            command = self.commands.next()
            if command is None:
                if not paused_at:
                    return
                time.sleep(PAUSE_SECONDS)
                yield from self.tasks.saver.outcome()
                self.commands.poll()
            elif command.name == "pause" and not paused_at:
                yield from self.results.read()
                yield self.context.event(Paused, command_id=command.id)
                paused_at = time.perf_counter()
            elif command.name == "resume" and paused_at:
                self.context.exclude_time(time.perf_counter() - paused_at)
                paused_at = 0.0
                yield self.context.event(Resumed, command_id=command.id)
            else:
                yield from self._carry_out(command)
        self.stopped_in_pause = bool(paused_at)
        if paused_at:
            self.context.exclude_time(time.perf_counter() - paused_at)

    def refuse_stop(self, reason: str) -> Event:
        """Give up the requested stop, so that training continues; paused, if the stop came during a pause."""
        assert self.stop is not None
        refused, self.stop = self.stop, None
        if self.stopped_in_pause:
            self.commands.inject(Command("pause", refused.id))
        return self.context.event(CommandRefused, command=refused.name, reason=reason, command_id=refused.id)

    def _carry_out(self, command: Command) -> Iterator[Event]:
        tasks: dict[str, Callable[[str], Iterator[Event]]] = {
            "save": self.tasks.save,
            "evaluate": self.tasks.evaluate,
            "sample": self.tasks.sample,
            "snapshot": self.tasks.snapshot,
        }
        if command.name in STOP:
            self.stop = command
        elif command.name == "set":
            yield self._set_live_setting(command)
        elif command.name in tasks:
            yield from self.results.read()  # a chore knows of all steps before it
            yield from tasks[command.name](command.id)
        else:
            reason = REFUSALS.get(command.name, "unknown command")
            yield self.context.event(CommandRefused, command=command.name, reason=reason, command_id=command.id)

    def _set_live_setting(self, command: Command) -> Event:
        key, value = str(command.arguments.get("key", "")), str(command.arguments.get("value", ""))
        try:
            previous, changed, new = set_live_field(self.context.config, key, value)
        except ConfigError as error:
            return self.context.event(CommandRefused, command=f"set {key}", reason=str(error), command_id=command.id)
        self.context.config = changed
        self.context.state.overrides[key] = value
        self.newly_set.append((key, value))
        return self.context.event(KnobSet, key=key, value=new, previous=previous, command_id=command.id)
