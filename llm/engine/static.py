"""Decoding one token with static memory, so that a GPU can capture the step as a CUDA graph and replay it.

One token of a few texts needs about a hundred small kernels, and launching them takes longer than running them. A CUDA
graph launches them all at once. A captured step must not depend on Python numbers that change: the position is a tensor
on the device, keys and values are stored at that position, and queries attend to the whole cache through a mask.

tests/engine/test_static.py compares this step with ordinary decoding on a CPU, and checks that every position runs the
same operations. **The capture itself has not been run on a GPU yet.**
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llm.model.attention import KVCache
from llm.model.packed import InferenceModel

CAPTURE_AFTER = 16
"""Tokens decoded before the capture: it takes as long as decoding that many, too long for short replies."""
WARMUP_CALLS = 3
"""Calls before the capture, in which libraries choose kernels and allocate memory (torch's CUDA graphs manual)."""


def is_supported(device: torch.device) -> bool:
    """Whether to decode with a static step on `device`. On a CPU, it would only add attention to the whole cache."""
    return device.type == "cuda"


class StaticCache(KVCache):
    """Shares the memory of another `KVCache`; the next token is stored at position `at`, a tensor (1,) int64."""

    def __init__(self, cache: KVCache) -> None:
        self.config, self.capacity, self.length = cache.config, cache.capacity, 0
        self.kv, self.keys, self.values, self.tokens = cache.kv, cache.keys, cache.values, cache.tokens
        self.kv[..., cache.length :, :] = 0  # masked values must be finite: 0 * inf is NaN
        self.at = torch.zeros(1, dtype=torch.int64, device=self.kv.device)
        self.positions = torch.arange(self.capacity, device=self.kv.device).unsqueeze(0)
        self.attn_mask = self.positions <= self.at

    @property
    def start(self) -> Tensor:
        return self.at

    def update_mask(self) -> None:
        """Let queries attend to the positions up to `at`."""
        assert self.attn_mask is not None
        torch.le(self.positions, self.at, out=self.attn_mask)

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.store_kv(layer, torch.cat((key, value), dim=1)).chunk(2, dim=1)
        return keys.to(key.dtype), values.to(value.dtype)

    def store_kv(self, layer: int, kv: Tensor) -> Tensor:
        self.kv[layer].index_copy_(2, self.at, kv.to(self.kv.dtype))
        return self.kv[layer]

    def store_tokens(self, tokens: Tensor, before: int) -> Tensor:
        self.tokens.index_copy_(1, self.at, tokens)
        places = self.at + torch.arange(-before, 0, device=self.at.device)
        return self.tokens.index_select(1, places.clamp(min=0)).where(places >= 0, -1)

    def advance(self, count: int) -> None:
        """Does nothing: the caller sets `at`."""


class StaticStep:
    """Decodes one token of every row of `cache`; captured as a CUDA graph after `CAPTURE_AFTER` calls."""

    def __init__(self, model: InferenceModel, cache: KVCache) -> None:
        self._model, self.cache = model, StaticCache(cache)
        self.tokens = torch.zeros(cache.batch_size, 1, dtype=torch.int64, device=cache.kv.device)
        self._run: Callable[[], Tensor] = self.forward
        self._calls = 0

    @torch.no_grad()
    def __call__(self, tokens: Tensor, position: int) -> Tensor:
        """Store the keys and values of `tokens` (B, 1) int64 at `position`; returns the logits (B, V) after them."""
        self.tokens.copy_(tokens)
        self.cache.at.fill_(position)
        if self._calls == CAPTURE_AFTER:
            with torch.cuda.device_of(self.tokens):
                self._run = capture(self.forward) or self.forward
        self._calls += 1
        return self._run().clone()  # the next replay overwrites the captured tensor

    def forward(self) -> Tensor:
        """The captured part: logits (B, V) after `tokens` at position `cache.at`, without reading from the device."""
        self.cache.update_mask()
        logits: Tensor = self._model(self.tokens, self.cache, last_only=True)[:, -1]
        return logits


def capture(step: Callable[[], Tensor]) -> Callable[[], Tensor] | None:
    """Capture `step` as a CUDA graph; returns a function that replays it and returns the captured output tensor.

    Returns None where capturing fails: no GPU, an operation that cannot be captured, or no memory. The capture uses a
    side stream and thread-local errors, so that a training thread can continue meanwhile. Calls `step` a few times.
    """
    if not torch.cuda.is_available():
        return None
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_CALLS):
                step()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = step()
    except RuntimeError:
        return None
    finally:
        torch.cuda.current_stream().wait_stream(stream)

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
