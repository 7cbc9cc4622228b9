"""Sampling a token: inverse transform sampling with one uniform number per row and step.

Every sample has its own CPU generator, so that sample i of a seed is the same text in any batch. torch's default
generator, which training uses, is not touched.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 256
BELOW_ONE = {torch.float64: 1 - 1e-12, torch.float32: 1 - 2**-22}
"""The largest uniform number of each dtype: far enough below 1 that its product with a sum rounds to less than it."""


class Uniforms:
    """Uniform numbers in [0, 1) for `num_samples` rows, generated in chunks.

    `copies` repeats the rows, with the same numbers, for a batch of several prompts. `first` is the index of the first
    row's sample.
    """

    def __init__(self, seed: int, num_samples: int, device: torch.device, *, copies: int = 1, first: int = 0) -> None:
        self._generators = [generator(seed, sample) for sample in range(first, first + num_samples)]
        self._copies = copies
        self._device = device
        self._used = CHUNK
        self._chunk = torch.empty(0)

    def next(self) -> Tensor:
        """The numbers of the next step, (num_samples · copies, 2) in `accumulation_dtype`.

        The first column samples the token; the second is for processors that need a random number (XTC).
        """
        if self._used == CHUNK:
            rows = [torch.rand(CHUNK, 2, generator=one, dtype=torch.float64) for one in self._generators]
            chunk = to_uniforms(torch.stack(rows * self._copies, dim=1), accumulation_dtype(self._device))
            self._chunk = chunk.to(self._device)
            self._used = 0
        self._used += 1
        return self._chunk[self._used - 1]


def to_uniforms(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 numbers in [0, 1) as `dtype`, at most `BELOW_ONE`: rounding to float32 makes 1 of a number just below."""
    return numbers.to(dtype).clamp(max=BELOW_ONE[dtype])


def generator(seed: int, sample: int) -> torch.Generator:
    """The CPU generator of one sample. Sample 0 uses `seed` itself; the others are offset by a large odd constant."""
    return torch.Generator().manual_seed((seed + sample * 0x9E3779B97F4A7C15) % 2**63)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token per row of `probabilities` (B, V), which need not sum to 1, with `uniform` (B,) in [0, 1).

    Returns (B,) int64: the first token whose cumulative probability exceeds uniform · total (inverse transform
    sampling). A token of probability 0 is never sampled. With the same number, similar distributions give the same
    token, which makes two checkpoints comparable.
    """
    cumulative = probabilities.cumsum(dim=-1, dtype=accumulation_dtype(probabilities.device))
    target = uniform.unsqueeze(-1).to(cumulative.dtype) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return tokens.clamp(max=probabilities.shape[-1] - 1)


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """dtype for sums over the vocabulary: float64, or float32 on devices without it."""
    return torch.float32 if device.type == "mps" else torch.float64
