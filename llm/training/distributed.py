"""Data-parallel training: several processes (torchrun) train one model, each on its share of every batch.

Rank 0 writes the run directory, executes commands, evaluates and saves. It broadcasts its decisions between steps, as
JSON over a separate gloo group, so that no rank waits for a GPU to receive them and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llm.device import choose_device
from llm.errors import WrongUse
from llm.model.transformer import Transformer

LossFn = Callable[..., Tensor]
"""The mean loss of a micro-batch, given its arrays as tensors: inputs, targets, and what a stage adds."""
TIMEOUT = timedelta(hours=2)  # ranks wait while rank 0 prepares data or measures CORE; a dead rank is noticed at once


@dataclass(frozen=True)
class Ranks:
    """The rank of this process. With a world size of 1 every method is the identity."""

    rank: int = 0
    world_size: int = 1
    per_machine: int = 1
    control: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any = None) -> Any:
        """The JSON value that rank 0 passes, on every rank."""
        if self.world_size == 1:
            return value
        data = json.dumps(value).encode() if self.is_first else b""
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, group=self.control)
        buffer = torch.empty(int(size), dtype=torch.uint8)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0, group=self.control)
        return json.loads(bytes(buffer.tolist()))

    def all_gather(self, rows: list[list[int]]) -> list[list[int]]:
        """The rows of all ranks in rank order; every rank passes rows of the same number and length."""
        if self.world_size == 1:
            return rows
        mine = torch.tensor(rows, dtype=torch.int64)
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(parts, mine, group=self.control)
        return [row for part in parts for row in part.tolist()]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a device tensor over ranks, computed in place and without waiting."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def wrap(self, model: Transformer, loss_fn: LossFn) -> LossFn:
        """`loss_fn` with a backward pass that averages gradients over ranks."""
        if self.world_size == 1:
            return loss_fn
        module = LossModule(model, loss_fn)
        devices = [torch.cuda.current_device()] if model.head_weight.is_cuda else None
        return DistributedDataParallel(module, device_ids=devices)


class LossModule(nn.Module):
    """The loss as the forward of a module, which DistributedDataParallel requires."""

    def __init__(self, model: Transformer, loss_fn: LossFn) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, *arrays: Tensor) -> Tensor:
        return self.loss_fn(*arrays)


def no_reduction_unless_last(loss_fn: LossFn, last: bool) -> AbstractContextManager[Any]:
    """A context that accumulates gradients locally, without reduction, except for the `last` micro-batch."""
    if last or not isinstance(loss_fn, DistributedDataParallel):
        return nullcontext()
    no_sync: AbstractContextManager[Any] = loss_fn.no_sync()
    return no_sync


def choose_backend(device: str, processes: int) -> Literal["gloo", "nccl"]:
    """The backend for `processes` ranks on this machine with `train.device` = `device`.

    WrongUse unless every rank gets its own GPU or all train on the CPU.
    """
    chosen = choose_device(device)
    if chosen == "cpu":
        return "gloo"
    if chosen != "cuda":
        raise WrongUse(f"train.device: {chosen} is one device, which several processes cannot share; set cuda or cpu.")
    gpus = torch.cuda.device_count()
    if processes > gpus:
        raise WrongUse(
            f"{processes} processes cannot share the GPUs of this machine, of which there are {gpus}; start {gpus}, "
            "or set train.device to cpu."
        )
    return "nccl"


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Connect the ranks that torchrun started (`WORLD_SIZE`) to train on `device`; a single rank without torchrun."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks()
        return
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    backend = choose_backend(device, per_machine)
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        yield Ranks(dist.get_rank(), world_size, per_machine, control)
    finally:
        dist.destroy_process_group()
