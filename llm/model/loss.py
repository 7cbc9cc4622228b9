"""Cross entropy, from log-sum-exp."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from llm.model.counts import LEAST_LOGIT_ROWS

IGNORED = -1
CPU_NUMBERS, GPU_NUMBERS = 1 << 18, 1 << 27  # logits of a chunk

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """−log softmax(logits)[target] in nats, computed in float32 or wider.

    logits (..., V), targets int64 (...), where −1 counts for nothing. "mean" is over the targets that count (0 where
    there are none), "none" keeps the shape of the targets.
    """
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return reduce(token_losses(wide, targets), targets, reduction)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """log Σ exp(x) − x[target], with the maximum taken out of the sum; 0 where the target is −1."""
    highest = logits.detach().amax(-1, keepdim=True)
    log_sum = (logits - highest).exp().sum(-1).log() + highest.squeeze(-1)
    chosen = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return (log_sum - chosen).masked_fill(targets == IGNORED, 0.0)


def reduce(losses: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
    """Mean over the targets that count, sum, or the losses themselves."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return total / counted(targets) if reduction == "mean" else total


def counted(targets: Tensor) -> Tensor:
    """How many targets count, at least 1: an int64 scalar on their device."""
    return (targets != IGNORED).sum().clamp_min(1)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """`cross_entropy` of softcap·tanh(hidden weightᵀ/softcap), or of hidden weightᵀ where softcap is 0.

    hidden (..., d), weight (V, d), targets int64 (...). The rows are worked through in chunks, so that the logits never
    exist all at once; for "sum" and "mean" that holds with gradients too. Under autocast the matrix products are in its
    dtype and everything between them in float32.
    """
    rows, wanted = hidden.flatten(0, -2), targets.flatten()
    if reduction != "none" and torch.is_grad_enabled():
        total: Tensor = LinearCrossEntropy.apply(rows, weight, wanted, softcap)  # type: ignore[no-untyped-call]
        return total / counted(targets) if reduction == "mean" else total
    size = chunk_rows(weight)
    losses = [
        token_losses(capped_logits(part, weight, softcap), of)
        for part, of in zip(torch.split(rows, size), torch.split(wanted, size), strict=True)
    ]
    return reduce(torch.cat(losses).view(targets.shape), targets, reduction)


def chunk_rows(weight: Tensor) -> int:
    """Rows whose logits are alive together: few enough for a CPU's cache, or to leave a GPU its memory."""
    on_cpu = weight.device.type == "cpu"
    return max(LEAST_LOGIT_ROWS, (CPU_NUMBERS if on_cpu else GPU_NUMBERS) // weight.shape[0])


def capped_logits(hidden: Tensor, weight: Tensor, softcap: float) -> Tensor:
    """(N, d) and (V, d) → (N, V), float32 or wider."""
    logits = hidden @ weight.mT
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return softcap * torch.tanh(wide / softcap) if softcap else wide


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of a linear map. The gradient, softmax − one-hot, is formed in the forward pass.

    Autocast is off inside: on a CPU it leaves log_softmax, logsumexp and sum in bfloat16 (torch 2.13.0), on CUDA not.
    The gradient is kept unscaled until backward: float16 could not hold it divided by the number of tokens.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        narrow_weight = weight.to(dtype)
        total = torch.zeros((), device=hidden.device, dtype=torch.promote_types(dtype, torch.float32))
        weight_gradient = torch.zeros_like(weight)
        hidden_gradients = []
        size = chunk_rows(weight)
        with torch.autocast(device, enabled=False):
            for part, of in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
                rows, ignored = part.to(dtype), (of == IGNORED).unsqueeze(-1)
                losses, gradient = losses_and_gradient(rows @ narrow_weight.mT, of, softcap)
                total += losses.sum()
                hidden_gradients.append((gradient @ narrow_weight).masked_fill_(ignored, 0.0))
                weight_gradient += gradient.mT @ rows.masked_fill(ignored, 0.0)
        ctx.save_for_backward(torch.cat(hidden_gradients), weight_gradient)
        ctx.hidden_dtype = hidden.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        (scale,) = gradients
        return hidden_gradient.to(ctx.hidden_dtype) * scale, weight_gradient * scale, None, None


def losses_and_gradient(logits: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """Losses (N,) in float32 or wider, and their gradient by the uncapped logits (N, V) in the dtype of these.

    Rows whose target is ignored have the loss 0, but a gradient for the caller to leave out.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    squashed = torch.tanh(wide / softcap) if softcap else None
    capped = wide if squashed is None else softcap * squashed
    gradient = torch.softmax(capped, dim=-1)
    log_sum = capped.amax(-1) - gradient.amax(-1).log()  # of the likeliest token, whose probability cannot underflow
    index = targets.clamp_min(0).unsqueeze(-1)
    losses = (log_sum - capped.gather(-1, index).squeeze(-1)).masked_fill(targets == IGNORED, 0.0)
    gradient.scatter_add_(-1, index, torch.full_like(index, -1, dtype=gradient.dtype))
    if squashed is not None:
        gradient *= 1 - squashed.square()
    return losses, gradient.to(logits.dtype)
