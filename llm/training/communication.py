"""The time that a rank spends in the collectives of FSDP2 on a CPU, where they block the training thread.

On a GPU they overlap with computation, and a host clock cannot measure them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from llm.model.transformer import Transformer


class Clock:
    """Accumulates the wall time of the functions that `measure` calls, in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def measure(self, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds += time.perf_counter() - began


class TimedCollective:
    """An all-gather or reduce-scatter as FSDP2 calls it (`set_custom_all_gather`), measured by `clock`."""

    def __init__(self, collective: Callable[..., Any], clock: Clock) -> None:
        self.collective, self.clock = collective, clock

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer for its input or output, allocated as by FSDP2's default."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, **options: Any) -> Any:
        return self.clock.measure(lambda: self.collective(output_tensor, input_tensor, group=group, **options))


def measure_communication(model: Transformer) -> Clock:
    """A clock that measures the collectives of a sharded model from now on."""
    clock = Clock()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(TimedCollective(dist.all_gather_into_tensor, clock))  # type: ignore[arg-type]
            module.set_custom_reduce_scatter(TimedCollective(dist.reduce_scatter_tensor, clock))  # type: ignore[arg-type]
    return clock
