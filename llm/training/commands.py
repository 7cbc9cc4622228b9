"""Commands to the trainer, from the run's `commands.jsonl` and from its own process (signals)."""

from __future__ import annotations

from collections import deque
from typing import Any

from llm.config import RunConfig, fields_of, get_value, with_overrides
from llm.errors import ConfigError, Problem
from llm.run import Command, CommandTail

STOP = frozenset({"stop", "detach"})


class CommandQueue:
    """Commands in the order of arrival. `inject` is safe in a signal handler and on any thread."""

    def __init__(self) -> None:
        self.tail: CommandTail | None = None
        self.injected: deque[Command] = deque()
        self.waiting: deque[Command] = deque()

    def inject(self, command: Command) -> None:
        self.injected.append(command)

    def poll(self) -> None:
        """Read new commands; cheap when there are none."""
        while self.injected:
            self.waiting.append(self.injected.popleft())
        if self.tail is not None:
            self.waiting.extend(self.tail.poll())

    def is_stop_requested(self) -> bool:
        """Whether a stop is waiting. Checked between micro-batches, where a step can still be abandoned."""
        return self.requested_stop() is not None

    def requested_stop(self) -> Command | None:
        """The first stop command in the queue, which stays there, or None."""
        self.poll()
        return next((command for command in self.waiting if command.name in STOP), None)

    def next(self) -> Command | None:
        return self.waiting.popleft() if self.waiting else None


def set_live_field(config: RunConfig, key: str, text: str) -> tuple[Any, RunConfig, Any]:
    """Set live field `key` from `text`; returns its previous value, the new configuration, and the new value.

    ConfigError if the field is not live or the value is invalid.
    """
    live = {field.path for field in fields_of(RunConfig) if field.live}
    if key not in live:
        raise ConfigError(
            [Problem(key, "cannot be changed while training; live settings are " + ", ".join(sorted(live)))]
        )
    changed = with_overrides(config, [(key, text)])
    return get_value(config, key), changed, get_value(changed, key)
