"""The model an engine uses: the given one, or a copy that is packed or that training does not change."""

from __future__ import annotations

import copy
from typing import Literal

import torch

from llm.device import choose_precision
from llm.errors import WrongUse
from llm.model.counts import parameters
from llm.model.kernels import FUSED
from llm.model.packed import InferenceModel, PackedTransformer, can_pack
from llm.model.transformer import Transformer

PACKED_FROM = 5_000_000
"""Parameters: packing a smaller model costs more time than it saves (measured by `llm-workbench bench decode`)."""


def reading_model(
    model: Transformer,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    weights: Literal["auto", "int8"] = "auto",
) -> InferenceModel:
    """The model for inference on `device`: `model` itself if it fits, otherwise a copy in evaluation mode.

    `weights` "int8": with matrices in int8 instead of `dtype`. WrongUse where the device is not a CPU.
    Without a `dtype`, a large float32 model runs in bfloat16 if the device supports it. This is a fixed rule and not a
    measurement, so that a reply can be replayed bit for bit on the same machine.
    """
    weight = model.head_weight
    there = torch.empty(0, device=device or weight.device, dtype=dtype or weight.dtype)
    if weights == "int8":
        if there.device.type != "cpu":
            raise WrongUse(f"decode.weights = int8 is for CPUs, not {there.device}; set it to auto, or use the CPU.")
        return PackedTransformer(model, torch.int8, there.device)
    is_plain = type(model) is Transformer and model.kernels is FUSED and model.lora is None
    packable = is_plain and parameters(model.config) >= PACKED_FROM
    narrow = dtype is None and weight.dtype == torch.float32 and choose_precision("auto", str(there.device)) == "bf16"
    wanted = torch.bfloat16 if narrow else there.dtype
    if packable and (there.is_cuda or can_pack(there.device, wanted)):
        return PackedTransformer(model, wanted, there.device)
    as_wanted = (weight.device, weight.dtype) == (there.device, there.dtype)
    return model if as_wanted and not model.training else snapshot_model(model, device=device, dtype=dtype)


def snapshot_model(
    model: Transformer, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Transformer:
    """A copy of `model` in evaluation mode, without gradients, on `device` and in `dtype` if given.

    `model` is not changed. If another thread trains it, hold that thread's weight lock during the call.
    """
    twin = copy.deepcopy(model)
    twin.requires_grad_(False)
    twin.eval()
    return twin.to(device=device, dtype=dtype)


@torch.no_grad()
def copy_weights(source: Transformer, target: InferenceModel) -> None:
    """Copy the weights of `source` to `target`, converting device and dtype. Hold the weight lock as above."""
    if isinstance(target, PackedTransformer):
        target.load_from(source)
        return
    ours, theirs = target.state_dict(), source.state_dict()
    for name, value in theirs.items():
        ours[name].copy_(value)


def use_one_thread() -> None:
    """Limit torch to one CPU thread in the calling thread.

    Call it once in every thread that runs an engine next to a training thread: a second pool of OpenMP threads, even an
    idle one, slows the trainer by a fifth, and small models decode fastest on one thread anyway.
    """
    torch.set_num_threads(1)
