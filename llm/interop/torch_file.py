"""Weights in files of `torch.save`, loaded without running code from them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

COMPILED = "_orig_mod."  # what torch.compile(model) puts before every name, and module.compile() does not


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary in a file. Numpy's scalars are allowed, since scripts save losses as such."""
    import numpy as np
    import torch

    scalar: Any = np.float64(0.0).__reduce__()[0]
    allowed = [scalar, np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on a file that is another program's
        reason = " ".join(str(error).split())
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than weights, and may run code"
        raise UserError(f"{path} cannot be loaded ({reason:.120}); get it again from its source.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a dictionary of weights; name another file.")
    return content


def plain_weights(path: Path, content: Any) -> dict[str, Tensor]:
    """A state dictionary without the prefix of compiled models. UserError unless it holds tensors of floats by name."""
    import torch

    is_sound = isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    )
    if not is_sound:
        raise UserError(f"{path} does not hold weights by name; name another file.")
    for name, value in content.items():
        if not is_plain(value):
            raise UserError(f"{path}: {name} is not a plain tensor of floats; import a model of float weights.")
    return {name.removeprefix(COMPILED): value.contiguous() for name, value in content.items()}


def is_plain(value: Tensor) -> bool:
    """Whether a tensor holds one float for each of its places. An expanded one could take any amount of memory."""
    import torch

    if value.layout != torch.strided or value.dtype not in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ):
        return False
    return value.device.type == "cpu" and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
