"""Metrics of each rank: time of computation, time waiting for communication, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.nn.parallel import DistributedDataParallel

from llm.device import memory_in_use
from llm.events import Event, RanksMeasured
from llm.training.context import TrainingContext
from llm.training.distributed import LossFn

if TYPE_CHECKING:
    from llm.training.communication import Clock

SECONDS = 10.0  # between two measurements: each is a collective
NANOSECONDS_PER_MS = 1e6


class RankMetrics:
    """Gathers the measurements of all ranks every SECONDS. `collect` is a collective: all ranks call it together."""

    def __init__(self, context: TrainingContext, loss_fn: LossFn) -> None:
        self.context = context
        self.loss_fn = loss_fn
        self.measured_at = time.monotonic()
        self.clock: Clock | None = None
        is_timed = context.state.sharding is not None and context.plan.device == "cpu"
        if is_timed:
            from llm.training.communication import measure_communication  # takes a second to import

            self.clock = measure_communication(context.state.model)
        self.steps: list[tuple[float, float]] = []  # per step since the last measurement: seconds, and those waiting

    @contextmanager
    def step(self) -> Iterator[None]:
        """A context that measures one step with FSDP2 on a CPU; DDP measures itself."""
        began, waited = time.perf_counter(), self.clock.seconds if self.clock else 0.0
        yield
        if self.clock:
            self.steps.append((time.perf_counter() - began, self.clock.seconds - waited))

    @property
    def is_due(self) -> bool:
        """On rank 0: whether to measure before the next step."""
        return self.context.ranks.world_size > 1 and time.monotonic() - self.measured_at >= SECONDS

    def collect(self) -> Iterator[Event]:
        """Gather the measurements; rank 0 yields them."""
        self.measured_at = time.monotonic()
        rows = self.context.ranks.gather(self._measure())
        if self.context.ranks.is_first:
            yield self.context.event(
                RanksMeasured,
                compute_ms={str(rank): row[0] / NANOSECONDS_PER_MS for rank, row in enumerate(rows)},
                waiting_ms={str(rank): row[1] / NANOSECONDS_PER_MS for rank, row in enumerate(rows)},
                memory_bytes={str(rank): float(row[2]) for rank, row in enumerate(rows)},
            )

    def _measure(self) -> list[int]:
        """Nanoseconds of computation in one micro-batch, nanoseconds of communication that it does not hide, bytes.

        DDP measures the first two itself, in every hundredth step or so. With FSDP on a GPU they are not measured.
        """
        memory = memory_in_use(self.context.plan.device)
        if isinstance(self.loss_fn, DistributedDataParallel):
            return [*ddp_times(self.loss_fn), memory]
        seconds, waiting = map(sum, zip(*self.steps, strict=True)) if self.steps else (0.0, 0.0)
        parts = max(1, len(self.steps) * self.context.batch_plan.grad_accum_steps)
        self.steps.clear()
        return [int(1e9 * (seconds - waiting) / parts), int(1e9 * waiting / parts), memory]


def ddp_times(module: DistributedDataParallel) -> tuple[int, int]:
    """Nanoseconds of computation in one micro-batch, and of communication that it does not hide."""
    read: Callable[[], dict[str, Any]] = module._get_ddp_logging_data  # torch has no public name for it
    data = read()
    compute = data.get("avg_forward_compute_time", 0) + data.get("avg_backward_compute_time", 0)
    waiting = data.get("avg_backward_comm_time", 0) - data.get("avg_backward_compute_comm_overlap_time", 0)
    return int(compute), max(0, int(waiting))
