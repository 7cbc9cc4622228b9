"""Write checkpoints on a background thread while training continues.

A step waits only for the copy of the state. The thread writes the copy, reads it back, renames it, and prunes old
checkpoints. One save runs at a time; the next waits for it. The copy takes as much host memory as weights and optimizer
state together, from the start of training.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from llm.errors import UserError
from llm.events import Event, Saved, Warned
from llm.run import CheckpointInfo
from llm.run.checkpoints import prune
from llm.training.checkpoint import publish
from llm.training.context import TrainingContext
from llm.training.state import HostMemory, StateCopy, copy_state
from llm.training.step import is_out_of_memory


@dataclass(frozen=True)
class Save:
    """A save in progress: the fields of its event, and its result."""

    step: int
    best: bool
    command_id: str
    result: Future[tuple[CheckpointInfo, str]]


class Saver:
    """Saves the training state. `saved_step` is the step of the newest completed save, or −1; `failure` is why the last
    save failed, or ""."""

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="save")
        self.memory: Future[HostMemory] | None = None
        self.cancelled = threading.Event()
        self.in_progress: Save | None = None
        self.saved_step = -1
        self.failure = ""

    def reserve_memory(self) -> Future[HostMemory]:
        """Allocate the copy on the thread in advance, so that the first save need not wait for it."""
        self.memory = self.thread.submit(HostMemory, self.context.state)
        return self.memory

    def start(self, best: bool, command_id: str) -> Iterator[Event]:
        """Wait for the previous save, copy the present state, and start to write it."""
        yield from self.report(wait=True)
        memory = self._host_memory()
        state_copy = copy_state(self.context.state, memory)
        result = self.thread.submit(self._write, state_copy, self.context.config.checkpoint.keep)
        self.in_progress = Save(state_copy.step, best, command_id, result)
        if memory is None:
            message = "there is no memory for a copy of the state, so training waits for the save"
            yield self.context.event(Warned, message=message)
            yield from self.report(wait=True)

    def _host_memory(self) -> HostMemory | None:
        """Memory for a copy; None without it, and training has to wait while its own tensors are written."""
        try:
            return (self.memory or self.reserve_memory()).result()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.memory = None  # frees what was allocated already; the next save tries again
            return None

    def _write(self, state_copy: StateCopy, keep: int) -> tuple[CheckpointInfo, str]:
        """On the thread: publish a checkpoint and prune older ones; the error of pruning, or ""."""
        info = publish(self.context.run, state_copy, self.cancelled)
        try:
            prune(self.context.run.checkpoint_directory, keep, self.context.run.meta()["pins"])
        except (OSError, UserError) as error:
            return info, str(error)
        return info, ""

    def report(self, wait: bool = False) -> Iterator[Event]:
        """Yield the events of a save that has ended since the last call; with `wait`, wait for the one in progress."""
        save = self.in_progress
        if save is None or not (wait or save.result.done()):
            return
        self.in_progress = None
        try:
            info, pruning_error = save.result.result()
        except (OSError, UserError, MemoryError) as error:
            self.failure = getattr(error, "strerror", None) or str(error) or "out of memory"
            yield self.context.event(Warned, step=save.step, message=f"not saved: {self.failure}")
            return
        self.saved_step, self.failure = save.step, ""
        path = str(info.path.relative_to(self.context.run.path))
        yield self.context.event(
            Saved, step=save.step, path=path, size_bytes=info.size_bytes, best=save.best, command_id=save.command_id
        )
        if pruning_error:
            yield self.context.event(
                Warned, step=save.step, message=f"older checkpoints were not removed: {pruning_error}"
            )

    def close(self) -> None:
        """Cancel a save in progress, of which nothing remains, and end the thread."""
        self.cancelled.set()
        self.thread.shutdown(cancel_futures=True)
