"""Several processes that train one model, each on its share of every batch (data parallel, under torchrun).

Rank 0 writes the run directory, obeys commands, evaluates and saves; it shares what it decided at every step border,
as JSON over a gloo group of its own, so that no rank ever waits for a GPU to learn it and nothing is unpickled.
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

LossFn = Callable[[Tensor, Tensor], Tensor]
TIMEOUT = timedelta(hours=2)  # ranks wait while rank 0 prepares data or measures CORE; a dead rank is noticed at once


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. With one, every method is the identity."""

    rank: int = 0
    world_size: int = 1
    per_machine: int = 1
    control: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any = None) -> Any:
        """What rank 0 passed, on every rank; JSON values."""
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
        """The rows of all ranks, in their order; every rank passes equally many, of equal length."""
        if self.world_size == 1:
            return rows
        mine = torch.tensor(rows, dtype=torch.int64)
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(parts, mine, group=self.control)
        return [row for part in parts for row in part.tolist()]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of a tensor on the device, without waiting for it."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def wrap(self, model: Transformer, loss_fn: LossFn) -> LossFn:
        """`loss_fn`, such that its backward pass averages the gradients of all ranks."""
        if self.world_size == 1:
            return loss_fn
        module = LossModule(model, loss_fn)
        devices = [torch.cuda.current_device()] if model.head_weight.is_cuda else None
        return DistributedDataParallel(module, device_ids=devices)


class LossModule(nn.Module):
    """DistributedDataParallel reduces what a module's forward leads to: here the loss."""

    def __init__(self, model: Transformer, loss_fn: LossFn) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss_fn(tokens, targets)


def no_reduction_unless_last(loss_fn: LossFn, last: bool) -> AbstractContextManager[Any]:
    """A context in which gradients only pile up locally, for all micro-batches of a step but the `last`."""
    if last or not isinstance(loss_fn, DistributedDataParallel):
        return nullcontext()
    held: AbstractContextManager[Any] = loss_fn.no_sync()
    return held


def choose_backend(device: str, processes: int) -> Literal["gloo", "nccl"]:
    """How several ranks reduce gradients, `processes` of them on this machine and `train.device` being `device`.

    WrongUse where they cannot train there: each takes a GPU of its own, or all take the CPU.
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
    """The ranks that torchrun started (`WORLD_SIZE`), connected to train on `device`; a single one where it did not."""
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
