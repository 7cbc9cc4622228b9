"""Logits processors that shift or scale logits: temperature, biases, and penalties for repetition.

Every function takes logits (B, V) of any float dtype on any device and returns logits of the same shape. `history` is
(B, T) int64: all tokens of a row so far, including the prompt. No function synchronizes with the host.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llm.sampling.filters import entropy

MIN_TEMPERATURE = 1e-6  # dividing by less would overflow and change nothing
MAX_MATCH = 64
"""DRY counts matches up to this many tokens; for longer ones the penalty exceeds any logit."""


def temperature(logits: Tensor, t: float) -> Tensor:
    """Divide by `t` (Ackley et al. 1985); below MIN_TEMPERATURE, keep only the first of the largest logits."""
    if t >= MIN_TEMPERATURE:
        return logits / t
    largest = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(dim=-1, keepdim=True), True)
    return logits.masked_fill(~largest, -torch.inf)


def dynamic_temperature(logits: Tensor, t: float, spread: float, exponent: float) -> Tensor:
    """Entropy-based temperature (kalomaze 2023): low if the model is confident, high if it is not.

    T = T_min + (T_max - T_min) · (H / ln V')^exponent, with T_min, T_max = max(0, t - spread), t + spread, H the
    entropy and V' the number of tokens above -inf.
    """
    lowest, highest = max(0.0, t - spread), t + spread
    highest_entropy = (logits > -torch.inf).sum(dim=-1, keepdim=True).to(logits.dtype).log().clamp(min=1e-10)
    relative = (entropy(torch.log_softmax(logits, dim=-1)) / highest_entropy).clamp(0, 1)
    return logits / (lowest + (highest - lowest) * relative**exponent).clamp(min=MIN_TEMPERATURE)


def logit_bias(logits: Tensor, ids: Tensor, bias: Tensor) -> Tensor:
    """Add `bias` (N,) to the logits of the tokens `ids` (N,) int64."""
    return logits.index_add(1, ids, bias.to(logits.dtype).expand(logits.shape[0], -1))


def repetition_penalty(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Divide the positive and multiply the negative logits of the tokens in `history` (CTRL, Keskar et al. 2019)."""
    seen = logits.gather(1, history)
    return logits.scatter(1, history, torch.where(seen < 0, seen * penalty, seen / penalty))


def presence_penalty(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from the logit of every token in `history` (the OpenAI API's formula)."""
    return logits - penalty * (counts(history, logits) > 0).to(logits.dtype)


def frequency_penalty(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` times a token's number of occurrences in `history` (the OpenAI API's formula)."""
    return logits - penalty * counts(history, logits)


def counts(history: Tensor, logits: Tensor) -> Tensor:
    """How often each token occurs in `history` (B, T): (B, V), dtype and device of `logits`."""
    return torch.zeros_like(logits).scatter_add_(1, history, torch.ones_like(history, dtype=logits.dtype))


def dry(
    logits: Tensor, history: Tensor, breakers: Tensor, multiplier: float, base: float, allowed_length: int
) -> Tensor:
    """Don't Repeat Yourself (p-e-w 2024): penalize tokens that would extend a repeated passage.

    If the last L tokens also precede an earlier token x, and L ≥ `allowed_length`, the logit of x is reduced by
    multiplier · base^(L - allowed_length), where L is the longest such match, at most `MAX_MATCH`. `breakers` (V,)
    bool: tokens that end a match and are never penalized.
    """
    match, follower = repeated_passages(history, breakers)
    if match.shape[1] == 0:
        return logits
    longest = torch.zeros_like(logits).scatter_reduce_(1, follower, match.to(logits.dtype), "amax")
    excess = (longest - allowed_length).clamp(max=math.log(1e30) / math.log(base) if base > 1 else math.inf)
    penalized = (longest >= allowed_length) & ~breakers
    return torch.where(penalized, logits - multiplier * base**excess, logits)


def repeated_passages(history: Tensor, breakers: Tensor) -> tuple[Tensor, Tensor]:
    """Matches of the end of `history` (B, T) with its earlier positions: two tensors (B, T - 1) int64.

    For each earlier position: how many tokens up to it equal the last tokens of `history` (at most `MAX_MATCH`), and
    the token that follows it.
    """
    length = history.shape[1]
    depth = min(MAX_MATCH, length - 1)
    if depth < 1:
        return history[:, :0], history[:, :0]
    padded = torch.nn.functional.pad(history[:, :-1], (depth - 1, 0), value=-1)
    before = padded.unfold(1, depth, 1)  # (B, T - 1, depth): the tokens up to each position
    suffix = history[:, length - depth :]
    same = (before == suffix.unsqueeze(1)) & ~breakers[suffix].unsqueeze(1)
    match = same.flip(-1).to(torch.int64).cumprod(dim=-1).sum(dim=-1)
    return match, history[:, 1:]


def length_penalty(logits: Tensor, stop_ids: Tensor, factor: float, excess: int) -> Tensor:
    """Add |logit| · (factor^excess - 1) to the logits of the tokens `stop_ids` (N,) int64, to end the text.

    `excess`: new tokens since the start of the penalty; 0 or less changes nothing. This is the formula of transformers'
    `exponential_decay_length_penalty`; the penalty of beam search is `beam_length_penalty`.
    """
    if excess <= 0:
        return logits
    before = logits[:, stop_ids]
    growth = math.exp(min(excess * math.log(factor), 60.0))
    raised = before + before.abs() * (growth - 1)
    return logits.index_copy(1, stop_ids, torch.where(before > -torch.inf, raised, before))
