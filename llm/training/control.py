"""Commands to a run in training: stop, pause, resume, set, and the tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator

from llm.config import with_overrides
from llm.errors import ConfigError
from llm.events import CommandRefused, Event, KnobSet, Paused, Resumed, Warned
from llm.run import Command
from llm.training.commands import STOP, CommandQueue, set_live_field
from llm.training.context import TrainingContext
from llm.training.metrics import StepMetrics
from llm.training.rank_metrics import RankMetrics
from llm.training.recovery import Reason, Recovery
from llm.training.tasks import Tasks

PAUSE_SECONDS = 0.05
REFUSALS = {"pause": "it is paused already", "resume": "it is not paused"}


class CommandHandler:
    """Executes commands between two steps. Rank 0 alone receives them, and broadcasts what affects the other ranks.

    `stop` is the command that ends the training, or None; `roll_back_reason` is why to roll back before the next step,
    or "".
    """

    def __init__(
        self,
        context: TrainingContext,
        commands: CommandQueue,
        tasks: Tasks,
        step_metrics: StepMetrics,
        recovery: Recovery,
        rank_metrics: RankMetrics,
    ) -> None:
        self.context = context
        self.commands = commands
        self.tasks = tasks
        self.step_metrics = step_metrics
        self.recovery = recovery
        self.rank_metrics = rank_metrics
        self.stop: Command | None = None
        self.stop_while_paused = False
        self.roll_back_reason: Reason = ""
        self.changes: list[tuple[str, str]] = []
        self.is_orphaned = False

    def synchronize(self) -> Iterator[Event]:
        """Execute the commands received since the last step, and broadcast the decisions to all ranks."""
        ranks = self.context.ranks
        if ranks.is_first:
            yield from self._watch_launcher()
            yield from self.tasks.saver.report()
            with self.step_metrics.exclude_time():
                yield from self._execute_all()
            self.roll_back_reason = self.recovery.reason
            if self.roll_back_reason:  # the other ranks list the checkpoints too, so none may be in progress
                yield from self.tasks.saver.report(wait=True)
        if ranks.world_size > 1:
            yield from self._broadcast()
        self.changes = []

    def _watch_launcher(self) -> Iterator[Event]:
        """Warn once when torchrun was killed: its ranks do not end with it, and keep the lock of the run."""
        if self.is_orphaned or not self.context.ranks.has_lost_launcher:
            return
        self.is_orphaned = True
        name = self.context.run.name
        message = (
            f"torchrun was killed, but its {self.context.ranks.world_size} ranks train on; nothing restarts one that "
            f"dies. To save and stop them: llm-workbench stop {name}"
        )
        yield self.context.event(Warned, message=message)

    def _broadcast(self) -> Iterator[Event]:
        decisions = self.context.ranks.broadcast(
            {
                "stop": self.stop is not None,
                "set": self.changes,
                "roll back": self.roll_back_reason,
                "measure": self.rank_metrics.is_due,
                "best": self.context.state.best_validation_loss,
            }
        )
        if not self.context.ranks.is_first:
            self.context.config = with_overrides(self.context.config, [(key, text) for key, text in decisions["set"]])
            self.context.state.overrides |= dict(decisions["set"])  # this rank may have to save the state
            self.context.state.best_validation_loss = decisions["best"]
            self.stop = Command("stop", "") if decisions["stop"] else None
            self.roll_back_reason = decisions["roll back"]
        if decisions["measure"]:
            yield from self.rank_metrics.collect()

    def _execute_all(self) -> Iterator[Event]:
        """Execute the waiting commands; a pause waits here for further ones."""
        self.commands.poll()
        paused_at = 0.0
        while self.stop is None:
            command = self.commands.next()
            if command is None:
                if not paused_at:
                    return
                time.sleep(PAUSE_SECONDS)
                yield from self.tasks.saver.report()
                self.commands.poll()
            elif command.name == "pause" and not paused_at:
                yield from self.step_metrics.read()
                yield self.context.event(Paused, command_id=command.id)
                paused_at = time.perf_counter()
            elif command.name == "resume" and paused_at:
                self.context.exclude_time(time.perf_counter() - paused_at)
                paused_at = 0.0
                yield self.context.event(Resumed, command_id=command.id)
            else:
                yield from self._execute(command)
        self.stop_while_paused = bool(paused_at)
        if paused_at:
            self.context.exclude_time(time.perf_counter() - paused_at)

    def _execute(self, command: Command) -> Iterator[Event]:
        task = self.tasks.table().get(command.name)
        if command.name in STOP:
            self.stop = command
        elif command.name == "set":
            yield self._set_live_field(command)
        elif task is not None and task.is_command:
            yield from self.step_metrics.read()  # a task uses the metrics of all steps before it
            yield from task.run(command.id)
        else:
            yield self._refuse(command, command.name, REFUSALS.get(command.name, "unknown command"))

    def _set_live_field(self, command: Command) -> Event:
        key, value = str(command.arguments.get("key", "")), str(command.arguments.get("value", ""))
        try:
            previous, changed, new = set_live_field(self.context.config, key, value)
        except ConfigError as error:
            return self._refuse(command, f"set {key}", str(error))
        self.context.config = changed
        self.context.state.overrides[key] = value
        self.changes.append((key, value))
        return self.context.event(KnobSet, key=key, value=new, previous=previous, command_id=command.id)

    def refuse_stop(self, reason: str) -> Event:
        """Drop the requested stop, so that training continues; paused, if the stop came during a pause."""
        assert self.stop is not None
        stop, self.stop = self.stop, None
        if self.stop_while_paused:
            self.commands.inject(Command("pause", stop.id))
        return self._refuse(stop, stop.name, reason)

    def _refuse(self, command: Command, name: str, reason: str) -> Event:
        return self.context.event(CommandRefused, command=name, reason=reason, command_id=command.id)
