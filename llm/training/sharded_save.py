"""Save a sharded state: all ranks write their parts in parallel, while training continues.

`torch.distributed.checkpoint` writes one safetensors file for each rank (its own format holds a pickle, which is never
used here), then rank 0 joins them to the files of every other checkpoint, which any number of ranks can read.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from llm.errors import UserError
from llm.files import published_directory, write_json
from llm.run import CheckpointInfo, Run
from llm.run.checkpoints import MODEL, OPTIMIZER, STATE, write_manifest
from llm.shards import is_sharded, local_part
from llm.training.checkpoint import FORMAT, is_finite, read_back
from llm.training.state import TrainerState

MAX_FILES = 8
MIN_FILE_BYTES = 16 * 2**20
"""A rank writes its part in several files: torch 2.13.0 serializes a whole file in memory, in two copies, before it
writes it (findings/dcp-safetensors-takes-twice-the-tensors.sh). Rank 0 opens the files of all ranks at once to join
them, so they are few."""


@dataclass(frozen=True)
class Parts:
    """A host copy of this rank's part of a state. `group` connects all ranks, apart from the collectives of
    training."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    group: Any


@torch.no_grad()
def copy_parts(state: TrainerState) -> Parts:
    """Copy this rank's parts; a training step may change the state afterwards."""
    sharding = state.sharding
    assert sharding is not None
    owners = state.optimizer.state_owners()

    def copy_part(tensor: Tensor, owner: Any) -> Tensor:
        part = local_part(tensor).detach().to("cpu", copy=True)
        if not is_sharded(owner):
            return part
        return DTensor.from_local(
            part, sharding.host_mesh, owner.placements, run_check=False, shape=owner.shape, stride=owner.stride()
        )

    weights = {name: copy_part(tensor, tensor) for name, tensor in state.model.state_dict().items()}
    optimizer = {name: copy_part(tensor, owners.get(name)) for name, tensor in state.optimizer.state_tensors().items()}
    return Parts(weights, optimizer, sharding.host_group)


class PartsWriter(HuggingFaceStorageWriter):
    """Writes this rank's tensors to several files; rank 0 joins those of all ranks to a single file.

    With the default arguments of torch 2.13.0, all ranks write the same file: it holds the part of one of them, and an
    index that names all, without an error.
    """

    def __init__(self, directory: Path, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(str(directory), numbers_of_files(tensors), save_distributed=True, enable_consolidation=True)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        self.fqn_to_index_mapping = None  # of the joined files: None for a single one
        super().finish(metadata, results)


def numbers_of_files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number, from 1, of the file that each tensor is written to."""
    size = max(MIN_FILE_BYTES, -(-sum(local_part(tensor).nbytes for tensor in tensors.values()) // MAX_FILES))
    numbers, written = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + written // size
        written += local_part(tensor).nbytes
    return numbers


def write_parts(parts: Parts, directory: Path) -> None:
    """Write this rank's parts below `directory`, which exists and all ranks share; all ranks call it together.

    Raises `UserError` on all ranks if a weight of any rank is not finite, and `OSError` if a rank cannot write.
    """
    bad = torch.tensor([int(any(not is_finite(local_part(tensor)) for tensor in parts.weights.values()))])
    dist.all_reduce(bad, group=parts.group)
    if bad.item():
        raise UserError("the weights hold values that are not finite, so the step is not saved.")
    try:
        for name, tensors in ((MODEL, parts.weights), (OPTIMIZER, parts.optimizer)):
            save(dict(tensors), storage_writer=PartsWriter(directory / name, tensors), process_group=parts.group)
    except CheckpointException as error:  # its `failures` are by rank
        rank, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f"rank {rank}: {cause}") from error
    except RuntimeError as error:
        raise OSError("a rank did not write its part") from error


def copy_scalar_tensors(state: TrainerState) -> dict[str, Tensor]:
    """A host copy of the optimizer's 0-dim tensors."""
    tensors = state.optimizer.state_tensors()
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items() if tensor.ndim == 0}


def overwrite_scalar_tensors(path: Path, values: Mapping[str, Tensor]) -> None:
    """Write 0-dim tensors into a safetensors file. DCP leaves them 0 when it consolidates files (torch 2.13.0)."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, value in values.items():
            file.seek(8 + length + header[name]["data_offsets"][0])
            file.write(value.numpy().tobytes())


def publish_parts(
    run: Run,
    step: int,
    metrics: dict[str, float],
    scalars: Mapping[str, Any],
    single: Mapping[str, Tensor],
    directory: Path,
    hurry: threading.Event,
) -> CheckpointInfo:
    """On rank 0, after all ranks have written: make the checkpoint of the joined files in `directory`.

    single: the optimizer's 0-dim tensors (`copy_scalar_tensors`). The checkpoint is read back from the disk
    unless `hurry` is set, as `llm.training.checkpoint.publish` does.
    """
    target = run.checkpoint_directory / f"step-{step:08d}"
    with published_directory(target) as staging:
        write_json(staging / STATE, {"format": FORMAT} | dict(scalars))
        for name in (MODEL, OPTIMIZER):
            (joined,) = (directory / name).glob("*.safetensors")
            joined.rename(staging / name)
        overwrite_scalar_tensors(staging / OPTIMIZER, single)
        write_manifest(staging, step, metrics)
    shutil.rmtree(directory, ignore_errors=True)
    return read_back(target, (MODEL, OPTIMIZER), hurry)
