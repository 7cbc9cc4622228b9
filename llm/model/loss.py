"""Cross entropy."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from llm.model.activations import at_least_float32
from llm.model.counts import MIN_LOGIT_ROWS

IGNORE_INDEX = -1
CPU_CHUNK_LOGITS, GPU_CHUNK_LOGITS = 1 << 18, 1 << 27  # logits computed at once

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """−log softmax(logits)[target] in nats, computed in float32 or wider.

    logits (..., V), targets int64 (...), where −1 is ignored. "mean" is over the targets that are not ignored (0 if
    there are none), "none" keeps the shape of the targets.
    """
    return reduce(token_losses(at_least_float32(logits), targets), targets, reduction)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """log Σ exp(x) − x[target], shifted by the maximum; 0 where the target is −1."""
    maximum = logits.detach().amax(-1, keepdim=True)
    log_sum = (logits - maximum).exp().sum(-1).log() + maximum.squeeze(-1)
    target_logits = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return (log_sum - target_logits).masked_fill(targets == IGNORE_INDEX, 0.0)


def reduce(losses: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
    """Mean over the targets that are not ignored, sum, or the losses themselves."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return total / target_count(targets) if reduction == "mean" else total


def target_count(targets: Tensor) -> Tensor:
    """The number of targets that are not ignored, at least 1: an int64 scalar on their device."""
    return (targets != IGNORE_INDEX).sum().clamp_min(1)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """`cross_entropy` of softcap·tanh(hidden weightᵀ/softcap), or of hidden weightᵀ where softcap is 0.

    hidden (..., d), weight (V, d), targets int64 (...). The logits are computed in chunks of rows, and for "sum" and
    "mean" so is their gradient, so that only one chunk of them is in memory. Under autocast the matrix products have
    its dtype, everything between them is float32.

    torch's `F.linear_cross_entropy` computes in chunks on request only, and its loss in bf16 is then 1 to 2.5 % too low
    (torch 2.13.0).
    """
    rows, row_targets = hidden.flatten(0, -2), targets.flatten()
    if reduction != "none" and torch.is_grad_enabled():
        total: Tensor = LinearCrossEntropy.apply(rows, weight, row_targets, softcap, weight.requires_grad)  # type: ignore[no-untyped-call]
        return total / target_count(targets) if reduction == "mean" else total
    size = chunk_rows(weight)
    losses = [
        token_losses(capped_logits(part, weight, softcap), part_targets)
        for part, part_targets in zip(torch.split(rows, size), torch.split(row_targets, size), strict=True)
    ]
    return reduce(torch.cat(losses).view(targets.shape), targets, reduction)


def chunk_rows(weight: Tensor) -> int:
    """Rows per chunk of logits, so that a chunk fits in a CPU's cache or a GPU's memory; at least MIN_LOGIT_ROWS."""
    on_cpu = weight.device.type == "cpu"
    return max(MIN_LOGIT_ROWS, (CPU_CHUNK_LOGITS if on_cpu else GPU_CHUNK_LOGITS) // weight.shape[0])


def capped_logits(hidden: Tensor, weight: Tensor, softcap: float) -> Tensor:
    """Logits of hidden (N, d) and weight (V, d): (N, V), float32 or wider."""
    return cap_logits(at_least_float32(hidden @ weight.mT), softcap)


def cap_logits(logits: Tensor, softcap: float) -> Tensor:
    """softcap·tanh(logits/softcap); the logits themselves if softcap is 0."""
    return softcap * torch.tanh(logits / softcap) if softcap else logits


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of a linear map. The gradient, softmax − one-hot, is formed in the forward pass.

    Autocast is disabled inside: on a CPU it would run log_softmax, logsumexp and sum in bfloat16 (torch 2.13.0).
    The gradient is scaled in the backward pass: divided by the number of tokens, it would underflow in float16.
    Unless `is_trained`, the weight's gradient is not computed, which saves a third of the products.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, is_trained: bool) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        narrow_weight = weight.to(dtype)
        total = torch.zeros((), device=hidden.device, dtype=torch.promote_types(dtype, torch.float32))
        weight_gradient = torch.zeros_like(weight) if is_trained else None
        hidden_gradients = []
        size = chunk_rows(weight)
        with torch.autocast(device, enabled=False):
            for part, part_targets in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
                rows, ignored = part.to(dtype), (part_targets == IGNORE_INDEX).unsqueeze(-1)
                losses, gradient = losses_and_gradient(rows @ narrow_weight.mT, part_targets, softcap)
                total += losses.sum()
                hidden_gradients.append((gradient @ narrow_weight).masked_fill_(ignored, 0.0))
                if weight_gradient is not None:
                    weight_gradient += gradient.mT @ rows.masked_fill(ignored, 0.0)
        ctx.save_for_backward(torch.cat(hidden_gradients), weight_gradient)
        ctx.hidden_dtype = hidden.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        (scale,) = gradients
        weight_gradient = None if weight_gradient is None else weight_gradient * scale
        return hidden_gradient.to(ctx.hidden_dtype) * scale, weight_gradient, None, None, None


def losses_and_gradient(logits: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """Losses (N,), float32 or wider, and their gradient with respect to the uncapped logits (N, V), in their dtype.

    Rows with an ignored target have the loss 0; the caller must drop their gradient.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    squashed = torch.tanh(wide / softcap) if softcap else None
    capped = wide if squashed is None else softcap * squashed
    gradient = torch.softmax(capped, dim=-1)
    log_sum = capped.amax(-1) - gradient.amax(-1).log()  # from the likeliest token, whose probability cannot underflow
    index = targets.clamp_min(0).unsqueeze(-1)
    losses = (log_sum - capped.gather(-1, index).squeeze(-1)).masked_fill(targets == IGNORE_INDEX, 0.0)
    gradient.scatter_add_(-1, index, torch.full_like(index, -1, dtype=gradient.dtype))
    if squashed is not None:
        gradient *= 1 - squashed.square()
    return losses, gradient.to(logits.dtype)
