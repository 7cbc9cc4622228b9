"""Fully sharded data parallelism: each rank holds a part of the weights, gradients and optimizer state.

PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`) gathers the weights of one block at a time for its forward and
backward pass, and reduces its gradients to the parts. The optimizer works on the parts alone; only Muon exchanges
matrices (`llm.optim.placement`). Checkpoints hold full tensors (`llm.training.sharded_save`), so any number of
ranks, or one process, can load them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from llm.errors import UserError, reason_of
from llm.model.transformer import Transformer
from llm.shards import held_rows, is_sharded, local_part

Kind = Literal["fsdp", "hsdp"]


@dataclass(frozen=True)
class Sharding:
    """The ranks that share one copy of the state: `group`, of `size` ranks, in which this one is `rank`.

    `is_primary`: whether rank 0 of the run is in the group. With "fsdp" there is one group; with "hsdp" one on each
    machine, and gradients are averaged between the machines. `host_mesh` and `host_group`, of all ranks, move host
    memory while training uses the others.
    """

    mesh: Any
    host_mesh: Any
    host_group: Any
    group: Any
    rank: int
    size: int
    is_primary: bool

    def gather(self, part: Tensor, shape: torch.Size) -> Tensor | None:
        """The whole tensor of `shape` on rank 0 of the group, None on the others. All ranks of the group take part."""
        chunk = -(-shape[0] // self.size)
        padded = part.new_zeros((chunk, *shape[1:]))
        padded[: part.shape[0]] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(padded, parts, group=self.group, group_dst=0)
        return None if parts is None else torch.cat(parts)[: shape[0]]

    @torch.no_grad()
    def gather_all(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor | None]]:
        """Each tensor whole on rank 0 and None elsewhere, one at a time; all ranks must run it to the end."""
        for name, tensor in tensors.items():
            if not is_sharded(tensor):
                yield name, tensor
            elif self.is_primary:
                yield name, self.gather(local_part(tensor), tensor.shape)


def make_sharding(kind: Kind, device: str, world_size: int, per_machine: int) -> Sharding:
    """The groups of the ranks of a run. UserError for one machine only where "hsdp" needs several."""
    machines, rest = divmod(world_size, per_machine)
    if kind == "hsdp" and rest:
        raise UserError("train.sharding = hsdp needs the same number of ranks on every machine; use fsdp.")
    shape = (world_size,) if kind == "fsdp" else (machines, per_machine)
    names = ("shard",) if kind == "fsdp" else ("replicate", "shard")
    mesh = init_device_mesh(torch.device(device).type, shape, mesh_dim_names=names)
    return Sharding(
        mesh=mesh,
        host_mesh=init_device_mesh("cpu", shape, mesh_dim_names=names),
        host_group=dist.new_group(backend="gloo"),
        group=mesh.get_group("shard"),
        rank=mesh.get_local_rank("shard"),
        size=shape[-1],
        is_primary=kind == "fsdp" or mesh.get_local_rank("replicate") == 0,
    )


def shard_model(model: Transformer, sharding: Sharding, precision: str) -> None:
    """Replace the parameters of `model` by this rank's parts, block by block.

    In bf16 the weights of blocks are gathered as bf16, which halves the bytes that are moved; gradients are reduced in
    fp32. The residual stream, the embedding, the head and the optimizer stay fp32.
    """
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mesh=sharding.mesh, mp_policy=policy)
    fully_shard(model, mesh=sharding.mesh, mp_policy=MixedPrecisionPolicy())
    for method in ("loss", "score"):
        register_fsdp_forward_method(model, method)


@torch.no_grad()
def load_parts(path: Path, tensors: Mapping[str, Tensor], owners: Mapping[str, Tensor]) -> None:
    """Read this rank's rows of the whole tensors in a safetensors file into `tensors`, which are parts; `owners` say
    which rows. UserError unless names and shapes match."""
    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != set(tensors):
                wrong = sorted(set(file.keys()) ^ set(tensors))[0]
                raise UserError(f"{path} does not fit this configuration: {wrong} is only on one side.")
            for name, tensor in tensors.items():
                owner = owners.get(name, tensor)
                part = file.get_slice(name)
                if list(part.get_shape()) != list(owner.shape):
                    raise UserError(
                        f"{path} does not fit this configuration: {name} has the shape {part.get_shape()} instead of "
                        f"{list(owner.shape)}."
                    )
                local_part(tensor).copy_(part[held_rows(owner)] if owner.ndim else file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}); use another checkpoint of this run.") from error
