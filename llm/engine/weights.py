"""A copy of a model's weights to talk to, while the model itself goes on training."""

from __future__ import annotations

import copy

import torch

from llm.model.transformer import Transformer


def snapshot_model(
    model: Transformer, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Transformer:
    """A copy of `model` in evaluation mode, without gradients, on `device` and in `dtype` where given.

    `model` is only read: its mode, its gradients and its random numbers stay as they are. Where another thread trains
    it, hold that thread's weight lock during the call.
    """
    twin = copy.deepcopy(model)
    twin.requires_grad_(False)
    twin.eval()
    return twin.to(device=device, dtype=dtype)


@torch.no_grad()
def copy_weights(source: Transformer, target: Transformer) -> None:
    """Overwrite the weights of `target` with those of `source`, converting device and dtype; the lock as above."""
    ours, theirs = target.state_dict(), source.state_dict()
    for name, value in theirs.items():
        ours[name].copy_(value)


def use_one_thread() -> None:
    """Keep torch's arithmetic in the calling thread to that thread.

    Call it once in every thread that runs an engine beside a training thread: a second pool of OpenMP threads, even an
    idle one, costs the trainer a fifth of its speed, and small models decode fastest on one thread anyway.
    """
    torch.set_num_threads(1)
