"""Checkpoints written on a thread of their own while training goes on.

Between two steps the state is copied; that is all a step waits for. The thread writes the copy, reads it back, gives it
its name, and then removes what is too old. There is never more than one at a time: the next save waits for the one
before. The copy takes as much memory on the host as weights and optimiser state do, from the start of the training on.
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
    """One save under way: what the event will say of it, and the result to come."""

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
        self.unwanted = threading.Event()
        self.under_way: Save | None = None
        self.saved_step = -1
        self.failure = ""

    def reserve_memory(self) -> Future[HostMemory]:
        """Take memory for the copy already now, on the thread, so that the first save need not wait for it."""
        self.memory = self.thread.submit(HostMemory, self.context.state)
        return self.memory

    def start(self, best: bool, command_id: str) -> Iterator[Event]:
        """Copy the state as it is now, and begin to write. First the save before has to end."""
        yield from self.report(wait=True)
        memory = self._memory()
        copied = copy_state(self.context.state, memory)
        result = self.thread.submit(self._write, copied, self.context.config.checkpoint.keep)
        self.under_way = Save(copied.step, best, command_id, result)
        if memory is None:
            message = "there is no memory for a copy of the state, so training waits until it is saved"
            yield self.context.event(Warned, message=message)
            yield from self.report(wait=True)

    def _memory(self) -> HostMemory | None:
        """Room for a copy; None where there is none, and training has to wait while its own tensors are written."""
        try:
            return (self.memory or self.reserve_memory()).result()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.memory = None  # with the exception goes what had been got hold of already; the next save tries again
            return None

    def _write(self, copied: StateCopy, keep: int) -> tuple[CheckpointInfo, str]:
        """On the thread: the new checkpoint, and what kept older ones from being removed ("" if nothing did)."""
        info = publish(self.context.run, copied, self.unwanted)
        try:
            prune(self.context.run.checkpoint_directory, keep, self.context.run.meta()["pins"])
        except (OSError, UserError) as error:
            return info, str(error)
        return info, ""

    def report(self, wait: bool = False) -> Iterator[Event]:
        """What is to be said of a save that has ended since the last look; with `wait`, of the one under way."""
        save = self.under_way
        if save is None or not (wait or save.result.done()):
            return
        self.under_way = None
        try:
            info, trouble = save.result.result()
        except (OSError, UserError, MemoryError) as error:
            self.failure = getattr(error, "strerror", None) or str(error) or "out of memory"
            yield self.context.event(Warned, step=save.step, message=f"not saved: {self.failure}")
            return
        self.saved_step, self.failure = save.step, ""
        path = str(info.path.relative_to(self.context.run.path))
        yield self.context.event(
            Saved, step=save.step, path=path, size_bytes=info.size_bytes, best=save.best, command_id=save.command_id
        )
        if trouble:
            yield self.context.event(Warned, step=save.step, message=f"older checkpoints were not removed: {trouble}")

    def close(self) -> None:
        """End the thread; a save that is still under way is given up, and nothing of it remains."""
        self.unwanted.set()
        self.thread.shutdown(cancel_futures=True)
