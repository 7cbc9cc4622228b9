"""Logits processors that remove tokens: truncation of the distribution's tail or head, and bans.

Every function takes logits (B, V) of any float dtype on any device and returns logits of the same shape, with removed
tokens at -inf and the others unchanged. No function removes the last token of a row or synchronizes with the host.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PARTIAL_SORT = 256


def remove(logits: Tensor, removed: Tensor) -> Tensor:
    """Set the tokens of `removed` (B, V) or (V,) bool to -inf, except in rows that would lose all tokens."""
    has_rest = (~removed & (logits > -torch.inf)).any(dim=-1, keepdim=True)
    return logits.masked_fill(removed & has_rest, -torch.inf)


def ban(logits: Tensor, ids: Tensor) -> Tensor:
    """Remove the tokens `ids` (N,) int64: banned tokens, or the stop tokens before `min_tokens`."""
    removed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device).index_fill_(0, ids, True)
    return remove(logits, removed)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the `k` largest logits, and those equal to the smallest of them (Fan et al. 2018)."""
    kept = torch.topk(logits, min(k, logits.shape[-1]), dim=-1).values
    return logits.masked_fill(logits < kept[:, -1:], -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Nucleus sampling: keep the smallest set of most likely tokens that reaches `p` (Holtzman et al. 2020)."""
    ranked, order = _sort_descending(torch.softmax(logits, dim=-1), p)
    before = ranked.cumsum(dim=-1) - ranked
    return _keep_sorted(logits, order, before < p)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least `p` times as likely as the most likely one (Nguyen et al. 2024).

    P(x) ≥ p · max P is equivalent to logit(x) ≥ max logit + ln p, which needs no softmax.
    """
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -torch.inf)


def typical(logits: Tensor, mass: float) -> Tensor:
    """Locally typical sampling (Meister et al. 2023): keep the tokens with a surprisal nearest to the entropy, up to a
    total probability of `mass`."""
    log_p = torch.log_softmax(logits, dim=-1)
    distance = (-log_p - entropy(log_p)).abs()
    order = torch.sort(distance, dim=-1).indices
    probabilities = log_p.gather(-1, order).exp()
    before = probabilities.cumsum(dim=-1) - probabilities
    return _keep_sorted(logits, order, before < mass)


def top_n_sigma(logits: Tensor, n: float) -> Tensor:
    """Keep logits within `n` standard deviations of the largest (Tang et al. 2024).

    The deviation is that of the logits above -inf: a removed token would make it infinite.
    """
    inside = logits > -torch.inf
    count = inside.sum(dim=-1, keepdim=True)
    mean = logits.masked_fill(~inside, 0).sum(dim=-1, keepdim=True) / count
    sigma = ((logits - mean).masked_fill(~inside, 0).square().sum(dim=-1, keepdim=True) / count).sqrt()
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) - n * sigma, -torch.inf)


def epsilon_cutoff(logits: Tensor, epsilon: float) -> Tensor:
    """Remove tokens with probability below `epsilon`, but never the most likely one (Hewitt et al. 2022)."""
    return _keep_top(logits, torch.softmax(logits, dim=-1) < epsilon)


def eta_cutoff(logits: Tensor, epsilon: float) -> Tensor:
    """Remove tokens below η = min(ε, √ε · exp(-entropy)), but never the most likely one (Hewitt et al. 2022)."""
    log_p = torch.log_softmax(logits, dim=-1)
    eta = (epsilon**0.5 * torch.exp(-entropy(log_p))).clamp(max=epsilon)
    return _keep_top(logits, log_p.exp() < eta)


def xtc(logits: Tensor, threshold: float, probability: float, uniform: Tensor) -> Tensor:
    """Exclude top choices (p-e-w 2024): of all tokens with probability ≥ `threshold`, keep only the least likely.

    `uniform` (B,) in [0, 1): a row is changed if its number is below `probability`.
    """
    probabilities = torch.softmax(logits, dim=-1)
    top = probabilities >= threshold
    least = probabilities.masked_fill(~top, torch.inf).amin(dim=-1, keepdim=True)
    chosen = (uniform < probability).unsqueeze(-1)
    return logits.masked_fill(top & (probabilities > least) & chosen, -torch.inf)


def mirostat(logits: Tensor, mu: Tensor) -> Tensor:
    """Mirostat 2.0 (Basu et al. 2021, algorithm 2): keep the most likely token, and those with a surprisal of at most
    `mu` (B,) bits."""
    surprisal = -torch.log_softmax(logits, dim=-1) / math.log(2)
    return _keep_top(logits, surprisal > mu.to(logits.dtype).unsqueeze(-1))


def mirostat_update(mu: Tensor, probability: Tensor, tau: float, eta: float) -> Tensor:
    """The next `mu` (B,) in bits: μ − η·(S − τ), where S is the surprisal of the sampled token (Mirostat 2.0).

    `probability` (B,): that of the sampled token after the pipeline.
    """
    surprisal = -torch.log2(probability.to(mu.dtype))
    return mu - eta * (surprisal - tau)


def no_repeat_ngram(logits: Tensor, history: Tensor, n: int) -> Tensor:
    """Remove tokens that would repeat an n-gram of `history` (B, T) int64 (Paulus et al. 2017)."""
    length = history.shape[1]
    if length < n:
        return logits
    windows = history.unfold(1, n, 1)
    prefix = history[:, length - n + 1 :].unsqueeze(1)
    matches = (windows[..., :-1] == prefix).all(dim=-1)
    removed = torch.zeros_like(logits).scatter_add_(1, windows[..., -1], matches.to(logits.dtype)) > 0
    return remove(logits, removed)


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats, (B, 1), of log-probabilities (B, V); tokens at -inf contribute 0."""
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(dim=-1, keepdim=True)


def _keep_top(logits: Tensor, removed: Tensor) -> Tensor:
    """Remove `removed` (B, V), except the most likely tokens."""
    return logits.masked_fill(removed & (logits < logits.amax(dim=-1, keepdim=True)), -torch.inf)


def _keep_sorted(logits: Tensor, order: Tensor, kept: Tensor) -> Tensor:
    """Keep the tokens of `order` (B, N) where `kept` (B, N), in that order, is true, and always the first."""
    removed = ~kept
    removed[:, 0] = False
    return logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).scatter_(1, order, removed), -torch.inf)


def _sort_descending(probabilities: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Probabilities in descending order and their tokens: all, or at least as many as reach `mass`.

    On a CPU, sorting 50,000 tokens takes 5 ms and a top-k of 256 takes 0.2 ms, so the top-k is tried first.
    """
    if probabilities.device.type == "cpu" and probabilities.shape[-1] > PARTIAL_SORT:
        ranked, order = torch.topk(probabilities, PARTIAL_SORT, dim=-1)
        if bool((ranked.sum(dim=-1) >= mass).all()):
            return ranked, order
    return torch.sort(probabilities, dim=-1, descending=True)
