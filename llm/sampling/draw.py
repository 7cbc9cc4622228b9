"""From logits to a token: one uniform number per row and step, and the inverse of the distribution function.

The numbers come from generators of our own, one per sample, on the CPU: sample i of a seed is the same text whether
it is written alone or beside others, and torch's default generator, which training draws from, is never touched.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 256
BELOW_ONE = 1 - 1e-12


class Uniforms:
    """Endless uniform numbers in [0, 1) for `num_samples` rows: `next()` is (rows, 2), made in chunks.

    The first column draws the token; the second is for transformations that toss a coin of their own. With `copies`
    the rows come that many times over, with the same numbers: for several prompts side by side.
    """

    def __init__(self, seed: int, num_samples: int, device: torch.device, *, copies: int = 1) -> None:
        self._generators = [generator(seed, sample) for sample in range(num_samples)]
        self._copies = copies
        self._device = device
        self._used = CHUNK
        self._chunk = torch.empty(0)

    def next(self) -> Tensor:
        if self._used == CHUNK:
            rows = [torch.rand(CHUNK, 2, generator=one, dtype=torch.float64) for one in self._generators]
            chunk = torch.stack(rows * self._copies, dim=1).clamp_(max=BELOW_ONE)
            self._chunk = chunk.to(self._device, accumulation_type(self._device))
            self._used = 0
        self._used += 1
        return self._chunk[self._used - 1]


def generator(seed: int, sample: int) -> torch.Generator:
    """The CPU generator of one sample; sample 0 is seeded with `seed` itself, the others far away from it."""
    return torch.Generator().manual_seed((seed + sample * 0x9E3779B97F4A7C15) % 2**63)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """One token per row of `probabilities` (B, V), which need not sum to 1, by `uniform` (B,) in [0, 1): (B,) int64.

    Inverse transform sampling: the first token whose cumulative probability exceeds uniform · total. A token of
    probability 0 is never drawn. One number decides, so that similar distributions give the same token for the same
    seed, which is what makes two checkpoints comparable side by side.
    """
    cumulative = probabilities.cumsum(dim=-1, dtype=accumulation_type(probabilities.device))
    target = uniform.unsqueeze(-1).to(cumulative.dtype) * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return drawn.clamp(max=probabilities.shape[-1] - 1)


def accumulation_type(device: torch.device) -> torch.dtype:
    """float64 for sums over the vocabulary, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
