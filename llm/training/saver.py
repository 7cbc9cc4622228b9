"""Write checkpoints on a background thread while training continues.

A step waits only for the copy of the state. The thread writes the copy, renames it, reads it back, and prunes old
checkpoints. One save runs at a time; the next waits for it. The copy takes as much host memory as weights and optimizer
state together, from the start of training.
"""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from llm.errors import UserError
from llm.events import Event, Saved, Warned
from llm.files import staging_path
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
        self.canceled = threading.Event()
        self.hurry = threading.Event()
        self.in_progress: Save | None = None
        self.saved_step = -1
        self.failure = ""

    def reserve_memory(self) -> Future[HostMemory]:
        """Allocate the copy on the thread in advance, so that the first save need not wait for it."""
        self.memory = self.thread.submit(HostMemory, self.context.state)
        return self.memory

    def start(self, best: bool, command_id: str, *, at_once: bool = False) -> Iterator[Event]:
        """Wait for the previous save, copy the current state, and start to write it.

        at_once: the process may be killed soon, and does not train until the save has ended. The state is not copied,
        and the files are not read back.
        """
        if at_once:
            self.hurry.set()
        yield from self.report(wait=True)
        if not at_once:
            self.hurry.clear()
        if self.context.state.sharding is not None:
            yield from self._start_sharded(best, command_id)
            return
        memory = None if at_once else self._host_memory()
        state_copy = copy_state(self.context.state, memory)
        keep = self.context.config.checkpoint.keep
        result = self.thread.submit(self._write, state_copy, keep)
        self.in_progress = Save(state_copy.step, best, command_id, result)
        if memory is None and not at_once:
            message = "there is no memory for a copy of the state, so training waits for the save"
            yield self.context.event(Warned, message=message)
            yield from self.report(wait=True)

    def _start_sharded(self, best: bool, command_id: str) -> Iterator[Event]:
        """Start to write the parts of all ranks."""
        context, state = self.context, self.context.state
        directory = staging_path(context.run.checkpoint_directory / f"parts-{state.step}")
        try:
            directory.parent.mkdir(exist_ok=True)
            directory.mkdir()
        except OSError as error:
            yield self._fail(state.step, error)
            return
        from llm.training.sharded_save import copy_scalar_tensors  # takes a second to import

        metrics, scalars, single = dict(state.metrics), copy.deepcopy(state.scalars()), copy_scalar_tensors(state)
        written = context.ranks.run_on_all("save", lambda: self.write_part(directory.name), directory=directory.name)
        step, keep = state.step, context.config.checkpoint.keep
        result = self.thread.submit(self._publish_parts, written, step, metrics, scalars, single, directory, keep)
        self.in_progress = Save(step, best, command_id, result)

    def write_part(self, directory: str) -> Future[None]:
        """Copy this rank's part of the state, and start to write it below the folder of checkpoints."""
        from llm.training.sharded_save import copy_parts, write_parts  # takes a second to import

        parts = copy_parts(self.context.state)
        return self.thread.submit(write_parts, parts, self.context.run.checkpoint_directory / directory)

    def _publish_parts(
        self,
        written: Future[None],
        step: int,
        metrics: dict[str, float],
        scalars: dict[str, Any],
        single: dict[str, Tensor],
        directory: Path,
        keep: int,
    ) -> tuple[CheckpointInfo, str]:
        """On the thread, after `write_part`: publish the joined files and prune older checkpoints."""
        from llm.training.sharded_save import publish_parts

        try:
            written.result()
            info = publish_parts(self.context.run, step, metrics, scalars, single, directory, self.hurry)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return info, self._prune(keep)

    def _host_memory(self) -> HostMemory | None:
        """Memory for a copy of the state; None if there is too little, so that training waits for the save."""
        try:
            return (self.memory or self.reserve_memory()).result()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.memory = None  # frees what was allocated already; the next save tries again
            return None

    def _write(self, state_copy: StateCopy, keep: int) -> tuple[CheckpointInfo, str]:
        """On the thread: publish a checkpoint and prune older ones; the error of pruning, or ""."""
        info = publish(self.context.run, state_copy, self.canceled, self.hurry)
        return info, self._prune(keep)

    def _prune(self, keep: int) -> str:
        """Remove older checkpoints, unless there was no time to read back the new one; the error, or ""."""
        if self.hurry.is_set():
            return ""
        try:
            prune(self.context.run.checkpoint_directory, keep, self.context.run.meta()["pins"])
        except (OSError, UserError) as error:
            return str(error)
        return ""

    def report(self, wait: bool = False) -> Iterator[Event]:
        """Yield the events of a save that has ended since the last call; with `wait`, wait for the one in progress."""
        save = self.in_progress
        if save is None or not (wait or save.result.done()):
            return
        self.in_progress = None
        try:
            info, pruning_error = save.result.result()
        except (OSError, UserError, MemoryError) as error:
            yield self._fail(save.step, error)
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

    def _fail(self, step: int, error: Exception) -> Event:
        """Record why a save failed; returns a warning."""
        self.failure = getattr(error, "strerror", None) or str(error) or "out of memory"
        return self.context.event(Warned, step=step, message=f"not saved: {self.failure}")

    def close(self) -> None:
        """Cancel a save in progress, whose files are removed, and end the thread."""
        self.canceled.set()
        self.thread.shutdown(cancel_futures=True)
