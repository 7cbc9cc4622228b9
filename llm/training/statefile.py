"""A model, its optimizer and a step count in one file, for use without a run directory.

The trainer's checkpoints (`llm.training.checkpoint`) are directories with checksums. Courses and small scripts use one
file: what `torch.save` writes for two state dictionaries, loaded without executing code from the file.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from llm.errors import UserError
from llm.files import write_atomic

KEYS = {"model", "optimizer", "iteration"}
Target = str | os.PathLike[str] | IO[bytes]


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: Target) -> None:
    """Write the states of `model` and `optimizer`, and how many steps were taken, to a path or a binary file.

    A path is replaced as a whole: a crash leaves the old file or the new one.
    """
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration}
    if not isinstance(out, str | os.PathLike):
        torch.save(state, out)
        return
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(Path(out), buffer.getvalue())


def load_state(src: Target, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Load what `save_state` wrote into `model` and `optimizer`; returns the iteration.

    Tensors are copied to the devices of `model`. UserError if `src` is not such a file, or does not fit the model or
    optimizer.
    """
    try:
        state: Any = torch.load(src, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on a file that is another program's
        raise UserError(f"{src} cannot be read as a saved state ({first_line(error)}); give another file.") from error
    if not isinstance(state, dict) or set(state) != KEYS or not isinstance(state["iteration"], int):
        raise UserError(f"{src} is not a saved state of model, optimizer and iteration; give another file.")
    try:
        model.load_state_dict(state["model"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{src} does not fit this model or optimizer ({first_line(error)}); make them as they were saved."
        ) from error
    return int(state["iteration"])


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
