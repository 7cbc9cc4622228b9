"""The model that an engine runs: the given one, or a copy, which training does not change and which may be packed."""

from __future__ import annotations

import copy

import torch

from llm.config.decode_schema import WeightFormat
from llm.device import choose_precision
from llm.errors import WrongUse
from llm.model.counts import parameters
from llm.model.kernels import FUSED
from llm.model.packed import InferenceModel, PackedTransformer, can_pack
from llm.model.quantized import has_int4
from llm.model.transformer import Transformer

PACKED_FROM = 5_000_000
"""Parameters: packing a smaller model costs more time than it saves (measured by `llm-workbench bench decode`)."""
ONE_THREAD_BELOW = 20_000_000
"""Parameters: a smaller model generates fastest on one thread (measured, docs/performance.md)."""

INTEGERS = {"int8": torch.int8, "int4": torch.quint4x2}
"""The dtype of the matrices of a `PackedTransformer` for each value of `decode.weights` but "auto"."""


def inference_model(
    model: Transformer,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    weights: WeightFormat = "auto",
) -> InferenceModel:
    """The model for inference on `device` in `dtype` (default: those of `model`), in evaluation mode.

    A large model is packed for faster decoding (`PackedTransformer`) where the device supports it; without a `dtype`, a
    float32 one then runs in bfloat16 if the device multiplies it. With `weights` "int8" or "int4", every model is
    packed with its matrices in that format; WrongUse if the device is not a CPU, or torch has no int4 product for it.
    Otherwise the result is `model` itself, or a copy if it is in training mode, on another device or in another dtype.
    These are fixed rules and not measurements, so that a reply can be replayed bit for bit on the same machine.
    """
    weight = model.head_weight
    target = torch.empty(0, device=device or weight.device, dtype=dtype or weight.dtype)
    if weights != "auto":
        check_format(weights, target.device)
        return PackedTransformer(model, INTEGERS[weights], target.device)
    is_plain = type(model) is Transformer and model.kernels is FUSED and model.lora is None
    is_large = parameters(model.config) >= PACKED_FROM
    to_bf16 = dtype is None and weight.dtype == torch.float32 and choose_precision("auto", str(target.device)) == "bf16"
    packed_dtype = torch.bfloat16 if to_bf16 else target.dtype
    if is_plain and is_large and (target.is_cuda or can_pack(target.device, packed_dtype)):
        return PackedTransformer(model, packed_dtype, target.device)
    fits = (weight.device, weight.dtype) == (target.device, target.dtype)
    return model if fits and not model.training else snapshot_model(model, device=device, dtype=dtype)


def check_format(weights: WeightFormat, device: torch.device) -> None:
    """WrongUse if matrices cannot be in the format `weights` ("int8" or "int4") on `device`."""
    if device.type != "cpu":
        raise WrongUse(f"decode.weights = {weights} is for CPUs, not {device}; set it to auto, or use the CPU.")
    if weights == "int4" and not has_int4():
        raise WrongUse("decode.weights = int4 needs an operation that this torch lacks on this CPU; use int8 or auto.")


def snapshot_model(
    model: Transformer, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Transformer:
    """A copy of `model` in evaluation mode, without gradients, on `device` and in `dtype` if given.

    If another thread trains `model`, hold its weight lock during the call.
    """
    return copy.deepcopy(model).requires_grad_(False).eval().to(device=device, dtype=dtype)


@torch.no_grad()
def copy_weights(source: Transformer, target: InferenceModel) -> None:
    """Copy the weights of `source` to `target`, converting device and dtype.

    If another thread trains `source`, hold its weight lock during the call.
    """
    if isinstance(target, PackedTransformer):
        target.load_from(source)
        return
    tensors = target.state_dict()
    for name, value in source.state_dict().items():
        tensors[name].copy_(value)


def is_fastest_on_one_thread(model: InferenceModel) -> bool:
    return parameters(model.config) < ONE_THREAD_BELOW


def use_one_thread() -> None:
    """Limit torch to one CPU thread in the calling thread.

    Call it once in every thread that runs an engine next to a training thread: a second pool of OpenMP threads, even an
    idle one, slows the trainer by a fifth, and small models decode fastest on one thread anyway.
    """
    torch.set_num_threads(1)
