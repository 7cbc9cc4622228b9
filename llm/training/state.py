"""The state of a training, and copies of it on the host."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

from llm.limits import memory
from llm.model.adapters import trained_weights
from llm.model.transformer import Transformer
from llm.optim import Optimizer
from llm.training.spikes import SpikeDetector

if TYPE_CHECKING:  # it imports torch's FSDP, which takes a second
    from llm.training.sharding import Sharding

NOT_SCALAR = {"scalar": False}


@dataclass
class TrainerState:
    """Everything that changes during training. A checkpoint stores all fields but `sharding` and `lock`.

    `step` counts optimizer steps and `batch_index` the batches drawn; a roll-back restores only `step`. `data_cursor`
    is the position of the next batch in a streamed corpus (`BatchSource.cursor`). `overrides` are the fields that
    differ from `run.toml`, as text by dotted path: live settings and changes on resume. `global_batch_size` is that of
    the first start, which other numbers of ranks keep. `micro_batch` is the sequences per micro-batch where
    `train.batch_size` is 0 or ran out of memory, else 0. `sharding` is set where each rank holds only a part of the
    tensors. `flops_per_second` is the speed by which `train.minutes` became steps, measured at the first start,
    else 0. `base` is the name and the sha256 of the weights that adapters change; empty where all weights are
    trained. `lock` guards the weights and `step`.

    `metadata["key"]` is the name of a field in `state.json` where it differs.
    """

    model: Transformer = field(metadata=NOT_SCALAR)
    optimizer: Optimizer = field(metadata=NOT_SCALAR)
    step: int = 0
    batch_index: int = 0
    tokens_seen: int = 0
    elapsed: float = 0.0
    loss_scale: float = 1.0
    steps_at_scale: int = 0
    global_batch_size: int = field(default=0, metadata={"key": "rows"})
    micro_batch: int = 0
    flops_per_second: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    best_validation_loss: float | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    data_fingerprint: str = ""
    data_cursor: Any = None
    spikes: SpikeDetector = field(default_factory=SpikeDetector, metadata=NOT_SCALAR)
    base: dict[str, str] = field(default_factory=dict, metadata=NOT_SCALAR)
    sharding: Sharding | None = field(default=None, metadata=NOT_SCALAR)
    lock: threading.Lock = field(default_factory=threading.Lock, metadata=NOT_SCALAR)

    def scalars(self) -> dict[str, Any]:
        """The fields of `state.json`, as JSON values."""
        scalars = {key: getattr(self, item.name) for key, item in scalar_fields().items()}
        return scalars | {"spikes": self.spikes.as_json()}

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Set the fields from what `scalars` returned. Fields that are missing there keep their values,
        but `spikes` is reset."""
        for key, item in scalar_fields().items():
            if key in scalars:
                setattr(self, item.name, scalars[key])
        self.spikes = SpikeDetector.from_json(scalars.get("spikes", {}))


def scalar_fields() -> dict[str, Field[Any]]:
    """The fields of `TrainerState` that `state.json` holds, by their keys there."""
    return {item.metadata.get("key", item.name): item for item in fields(TrainerState) if item.metadata != NOT_SCALAR}


class HostMemory:
    """Host memory for one copy of the trained weights and optimizer state.

    It is allocated once and reused, since touching new pages costs ten times the copy. For CUDA tensors it is pinned,
    which makes copies several times faster; torch rounds each pinned tensor up to a power of two. MemoryError if too
    little is available. This is checked in advance, since a process above its cgroup limit is killed.
    """

    def __init__(self, state: TrainerState) -> None:
        tensors = (*trained_weights(state.model).values(), *state.optimizer.state_tensors().values())
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if needed > memory().available:
            raise MemoryError(f"a copy of the state needs {needed} bytes")
        self.weights = allocate_like(trained_weights(state.model))
        self.optimizer = allocate_like(state.optimizer.state_tensors())

    def copy_from(self, state: TrainerState) -> None:
        """Copy the current state; returns when the copy is complete."""
        for target, tensors in (
            (self.weights, trained_weights(state.model)),
            (self.optimizer, state.optimizer.state_tensors()),
        ):
            for name, tensor in tensors.items():
                target[name].copy_(tensor, non_blocking=True)
        if state.optimizer.step_count.is_cuda:
            torch.cuda.current_stream(state.optimizer.step_count.device).synchronize()


def whole_weights(state: TrainerState) -> Iterable[tuple[str, torch.Tensor | None]]:
    """The name and full tensor of each weight, one at a time. If the state is sharded, all ranks must iterate together;
    rank 0 gets the tensors, the others None."""
    if state.sharding is None:
        return state.model.state_dict().items()
    return state.sharding.gather_all(state.model.state_dict())


def allocate_like(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the same shapes and dtypes, with every page touched; by numpy, since torch would start threads."""
    allocated = {}
    for name, tensor in tensors.items():
        allocated[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        allocated[name].reshape(-1).view(torch.uint8).numpy().fill(0)
    return allocated


@dataclass(frozen=True)
class StateCopy:
    """The content of a checkpoint: a state between two steps."""

    step: int
    metrics: dict[str, float]
    scalars: dict[str, Any]
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    base: dict[str, str] = field(default_factory=dict)


def copy_state(state: TrainerState, memory: HostMemory | None) -> StateCopy:
    """A copy of the state in `memory`. Without `memory`, the result shares the tensors of `state`, which must not
    change until they are written."""
    if memory is not None:
        memory.copy_from(state)
    return StateCopy(
        state.step,
        dict(state.metrics),
        copy.deepcopy(state.scalars()),
        trained_weights(state.model) if memory is None else memory.weights,
        state.optimizer.state_tensors() if memory is None else memory.optimizer,
        dict(state.base),
    )
