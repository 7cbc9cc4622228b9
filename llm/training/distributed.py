"""Data-parallel training: several processes (torchrun) train one model, each on its share of every batch.

Rank 0 writes the run directory, executes commands, evaluates and saves. It broadcasts its decisions between steps, as
JSON over a separate gloo group, so that no rank waits for a GPU to receive them and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from llm.device import choose_device
from llm.errors import UserError, WrongUse
from llm.files import STAGING
from llm.model.transformer import Transformer
from llm.run.directory import versions
from llm.training.rank_watch import Peer, RankLost, RankWatch

Result = TypeVar("Result")
RECORD_BYTES = 1024  # size of a value in `gather_records`
MESSAGE_BYTES, LENGTH_BYTES = 1024, 8  # first message of a broadcast, and its length field; a step needs about 100
SHARED_SECONDS = 5.0  # a network file system caches directories for seconds
LossFn = Callable[..., Tensor]
"""The mean loss of a micro-batch, given its arrays as tensors: inputs, targets, and what a stage adds."""
TIMEOUT = timedelta(hours=2)  # ranks wait while rank 0 prepares data or measures CORE; a dead rank is noticed at once
JOIN_TIMEOUT = timedelta(minutes=5)  # torchrun starts its ranks together; one that is missing has ended
CONNECTION_ERRORS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""Parts of the messages of torch's RuntimeErrors when a collective fails because a rank is gone."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among the `world_size` ranks of a training. With a world size of 1 every method is the
    identity. `control` is the gloo group for JSON and host tensors."""

    rank: int = 0
    world_size: int = 1
    per_machine: int = 1
    control: Any = None
    watch: RankWatch | None = None
    handlers: dict[str, Callable[..., object]] = field(default_factory=dict)
    """The functions that the other ranks call when rank 0 calls `run_on_all`, by name."""
    launcher: int = 0
    """Process id of the torchrun that started this rank; 0 without one."""

    @property
    def has_lost_launcher(self) -> bool:
        """Whether torchrun has ended before its ranks, which happens only when it is killed."""
        return self.launcher not in (0, os.getppid())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any = None) -> Any:
        """Broadcast a JSON value from rank 0; returns it on every rank. While the other ranks wait for it, they call
        the handlers that `run_on_all` requests."""
        while True:
            received = self._broadcast_once(value)
            if self.is_first or not (isinstance(received, dict) and "run" in received):
                return received
            self.handlers[received["run"]](**received["arguments"])

    def run_on_all(self, name: str, work: Callable[[], Result], **arguments: Any) -> Result:
        """Call `work` on rank 0, and on all other ranks, which wait in `broadcast`, the handler `name` with
        `arguments`, so that all ranks take part in the same collectives. Returns the result of `work`."""
        if self.world_size > 1:
            self._broadcast_once({"run": name, "arguments": arguments})
        return work()

    def _broadcast_once(self, value: Any) -> Any:
        return value if self.world_size == 1 else broadcast_json(self.control, value, self.is_first)

    def all_gather(self, rows: list[list[int]]) -> list[list[int]]:
        """The rows of all ranks in rank order; every rank passes rows of the same number and length."""
        if self.world_size == 1:
            return rows
        local = torch.tensor(rows, dtype=torch.int64)
        parts = [torch.empty_like(local) for _ in range(self.world_size)]
        self.control.allgather(parts, local).wait()
        return [row for part in parts for row in part.tolist()]

    def gather(self, row: list[int]) -> list[list[int]]:
        """The rows of all ranks in rank order on rank 0, an empty list elsewhere. All rows have the same length."""
        if self.world_size == 1:
            return [row]
        local = torch.tensor(row, dtype=torch.int64)
        parts = [torch.empty_like(local) for _ in range(self.world_size)] if self.is_first else []
        self.control.gather(parts, local, 0).wait()
        return [part.tolist() for part in parts]

    def to_rank_lost(self, error: Exception) -> RankLost | None:
        """The error that names the rank whose death made a collective fail with `error`; None for other errors."""
        if self.watch is None or not is_connection_error(error):
            return None
        return RankLost(self.watch.first_death() or "the connection to a rank on another machine was lost")

    def sum(self, values: Tensor) -> Tensor:
        """All-reduce a host tensor to its sum over ranks, in place."""
        if self.world_size > 1:
            self.control.allreduce(values).wait()
        return values

    def mean(self, value: Tensor) -> Tensor:
        """All-reduce a device tensor to its mean over ranks, in place. On a GPU this does not block the host."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def wrap(self, model: Transformer, loss_fn: LossFn) -> LossFn:
        """`loss_fn` in DistributedDataParallel, whose backward pass averages gradients over ranks."""
        if self.world_size == 1:
            return loss_fn
        module = LossModule(model, loss_fn)
        devices = [torch.cuda.current_device()] if model.head_weight.is_cuda else None
        return DistributedDataParallel(module, device_ids=devices)


def broadcast_json(group: Any, value: Any, is_first: bool) -> Any:
    """The JSON value of rank 0 of a gloo group, on all its ranks: in one message up to MESSAGE_BYTES, else in two."""
    data = json.dumps(value).encode() if is_first else b""
    message = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8)
    if is_first:
        write_bytes(message, len(data).to_bytes(LENGTH_BYTES, "little") + data[: MESSAGE_BYTES - LENGTH_BYTES])
    group.broadcast(message, 0).wait()
    received = message.numpy().tobytes()
    length, beginning = int.from_bytes(received[:LENGTH_BYTES], "little"), received[LENGTH_BYTES:]
    rest = torch.zeros(max(0, length - len(beginning)), dtype=torch.uint8)
    if len(rest):
        if is_first:
            write_bytes(rest, data[len(beginning) :])
        group.broadcast(rest, 0).wait()
    return json.loads(beginning[:length] + rest.numpy().tobytes())


def write_bytes(target: Tensor, data: bytes) -> None:
    """Write `data` to the beginning of a uint8 tensor."""
    target[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)


class LossModule(nn.Module):
    """The loss as the forward of a module, which DistributedDataParallel requires."""

    def __init__(self, model: Transformer, loss_fn: LossFn) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, *arrays: Tensor) -> Tensor:
        return self.loss_fn(*arrays)


def no_sync_unless_last(loss_fn: LossFn, last: bool) -> AbstractContextManager[Any]:
    """DDP's `no_sync`, except for the `last` micro-batch: gradients are accumulated locally until then."""
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
    world_size = number_from_torchrun("WORLD_SIZE", "1")
    if world_size == 1:
        yield Ranks()
        return
    per_machine = number_from_torchrun("LOCAL_WORLD_SIZE", str(world_size))
    number_from_torchrun("MASTER_PORT")
    if number_from_torchrun("RANK") >= world_size:
        raise not_from_torchrun("RANK")
    if not os.environ.get("MASTER_ADDR"):
        raise not_from_torchrun("MASTER_ADDR")
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0
    backend = choose_backend(device, per_machine)
    if backend == "nccl":
        torch.cuda.set_device(number_from_torchrun("LOCAL_RANK"))
    # Ranks that torchrun restarts get the same store, where gloo would find the addresses of the previous attempt.
    try:
        store, rank, _ = next(rendezvous("env://", timeout=TIMEOUT))
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the ranks cannot meet at {place}, the MASTER_ADDR and MASTER_PORT ({reason}); start them with torchrun."
        ) from error
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    wait_for_ranks(store, rank, world_size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    try:
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        peers = gather_peers(control)
        watch = RankWatch([peer for peer in peers if peer.rank != rank], world_size)
        yield Ranks(rank, world_size, per_machine, control, watch, launcher=launcher)
    finally:
        dist.destroy_process_group()


def number_from_torchrun(name: str, default: str = "") -> int:
    """The environment variable `name`, a whole number. WrongUse where it is not, or is missing without a `default`."""
    text = os.environ.get(name, default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise not_from_torchrun(name)
    return int(text)


def not_from_torchrun(name: str) -> WrongUse:
    """The error of variables that another program set, or of which some are missing."""
    found = f"is {os.environ[name]!r}" if name in os.environ else "is missing"
    return WrongUse(
        f"the environment variable {name} {found}, though WORLD_SIZE is {os.environ.get('WORLD_SIZE', '')!r}; start "
        "the ranks with torchrun, or unset WORLD_SIZE to train in one process."
    )


def wait_for_ranks(store: Any, rank: int, world_size: int, timeout: timedelta = JOIN_TIMEOUT) -> None:
    """Wait until all ranks are registered in the store. UserError names those that are not after `timeout`."""
    store.set(f"rank {rank} is here", socket.gethostname())
    names = [f"rank {other} is here" for other in range(world_size)]
    try:
        store.wait(names, timeout)
    except RuntimeError as error:
        missing = [str(other) for other, name in enumerate(names) if not store.check([name])]
        ranks = f"rank {missing[0]}" if len(missing) == 1 else f"ranks {', '.join(missing[:8])}"
        raise UserError(
            f"{ranks} of {world_size} did not start within {timeout.total_seconds():.0f} s; the output of torchrun "
            "there says why."
        ) from error


def gather_peers(control: Any) -> list[Peer]:
    """The processes of all ranks, this one included. WrongUse where their versions differ."""
    packages = versions()
    programs = f"llm-workbench {packages.get('llm-workbench', '(source)')} with torch {torch.__version__}"
    records = gather_records([os.getpid(), socket.gethostname(), programs], control)
    check_versions(records)
    return [Peer(rank, pid, host) for rank, (pid, host, _) in enumerate(records)]


def check_versions(records: Sequence[tuple[int, str, str]]) -> None:
    """WrongUse unless all ranks, given by process, host and programs, run the same programs."""
    _, first_host, first = records[0]
    for rank, (_, host, programs) in enumerate(records):
        if programs != first:
            raise WrongUse(
                f"rank {rank} on {host} runs {programs}, and rank 0 on {first_host} {first}; install the same versions "
                "on all machines."
            )


def gather_records(value: Any, control: Any) -> list[Any]:
    """The JSON values of all ranks in rank order, each at most RECORD_BYTES long."""
    record = torch.frombuffer(bytearray(json.dumps(value).encode().ljust(RECORD_BYTES)), dtype=torch.uint8)
    records = [torch.empty_like(record) for _ in range(dist.get_world_size())]
    dist.all_gather(records, record, group=control)
    return [json.loads(bytes(other.tolist())) for other in records]


def check_shared(directory: Path, ranks: Ranks) -> None:
    """WrongUse unless every rank sees the files that rank 0 writes in `directory`."""
    if ranks.world_size == 1:
        return
    mark = directory / f"{STAGING}{os.getpid()}-ranks"
    name = ranks.broadcast(mark.name if ranks.is_first and write_mark(mark) else "")
    try:
        is_seen = wait_for(directory / name) if name else True
        seen = gather_records([is_seen, socket.gethostname()], ranks.control)
    finally:
        if ranks.is_first:
            mark.unlink(missing_ok=True)
    check_seen(seen, directory)


def check_seen(seen: Sequence[tuple[bool, str]], directory: Path) -> None:
    """WrongUse unless all ranks, given with their hosts, have seen what rank 0 wrote in `directory`."""
    for rank, (is_seen, host) in enumerate(seen):
        if not is_seen:
            raise WrongUse(
                f"rank {rank} on {host} does not see the files that rank 0 on {seen[0][1]} writes in {directory}; put "
                "the home on a file system that all machines share."
            )


def write_mark(path: Path) -> bool:
    """Create an empty file; returns whether that succeeded. A full disk is reported later, when a file needs the
    space."""
    try:
        path.touch()
    except OSError:
        return False
    return True


def wait_for(path: Path) -> bool:
    """Whether a file appears within SHARED_SECONDS."""
    limit = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True


def is_connection_error(error: Exception) -> bool:
    """Whether a collective failed because another rank did not take part in it."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in CONNECTION_ERRORS)
    )
