"""Reading one token as the same operations on the same memory at every position, so that a GPU can do them as one.

A GPU is done with one token of a few texts sooner than it can be told the hundred operations that make it. A CUDA graph
is told once. For that nothing may depend on a number that Python knows: the position is a tensor on the device, keys
and values are written where it says, and a query is compared with the whole cache, what it must not see masked.

tests/engine/test_static.py proves on a CPU that this gives what the ordinary path gives, by the same operations at
every position. **The recording itself has not been run on a GPU yet.**
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llm.model.attention import KVCache
from llm.model.packed import ReadingModel

RECORDED_AFTER = 16
"""Tokens: recording takes about as long as reading that many, and short replies would never get it back."""
WARM_UPS = 3
"""Calls before recording, in which libraries choose their kernels and take their memory (as torch's manual advises)."""


def suits(device: torch.device) -> bool:
    """Whether tokens are read so on `device`. A CPU would pay for comparing with the whole cache and gain nothing."""
    return device.type == "cuda"


class StaticCache(KVCache):
    """The keys and values of another `KVCache`, in the same memory, to be continued at position `at`, (1,) int64."""

    def __init__(self, cache: KVCache) -> None:
        self.config, self.capacity, self.length = cache.config, cache.capacity, 0
        self.both, self.keys, self.values = cache.both, cache.keys, cache.values
        self.both[..., cache.length :, :] = 0  # what is masked counts nothing only if it is finite
        self.at = torch.zeros(1, dtype=torch.int64, device=self.both.device)
        self.numbers = torch.arange(self.capacity, device=self.both.device).unsqueeze(0)
        self.seen = self.numbers <= self.at

    @property
    def start(self) -> Tensor:
        return self.at

    def move(self) -> None:
        """Let queries see the positions up to `at`."""
        assert self.seen is not None
        torch.le(self.numbers, self.at, out=self.seen)

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.store_both(layer, torch.cat((key, value), dim=1)).chunk(2, dim=1)
        return keys.to(key.dtype), values.to(value.dtype)

    def store_both(self, layer: int, both: Tensor) -> Tensor:
        self.both[layer].index_copy_(2, self.at, both.to(self.both.dtype))
        return self.both[layer]

    def advance(self, count: int) -> None:
        """Nothing: `at` is set from outside."""


class StaticStep:
    """Reads one more token of every text in `cache`; recorded once it has been done `RECORDED_AFTER` times."""

    def __init__(self, model: ReadingModel, cache: KVCache) -> None:
        self._model, self.cache = model, StaticCache(cache)
        self.tokens = torch.zeros(cache.batch_size, 1, dtype=torch.int64, device=cache.both.device)
        self._run: Callable[[], Tensor] = self.work
        self._done = 0

    @torch.no_grad()
    def __call__(self, tokens: Tensor, position: int) -> Tensor:
        """Logits (B, V) after `tokens` (B, 1) int64, which stand at `position`; their keys and values are stored."""
        self.tokens.copy_(tokens)
        self.cache.at.fill_(position)
        if self._done == RECORDED_AFTER:
            with torch.cuda.device_of(self.tokens):
                self._run = recorded(self.work) or self.work
        self._done += 1
        return self._run().clone()  # the next replay writes into the same memory

    def work(self) -> Tensor:
        """What is recorded: the logits after `tokens`, at the position that `cache.at` holds, on the device alone."""
        self.cache.move()
        logits: Tensor = self._model(self.tokens, self.cache, last_only=True)[:, -1]
        return logits


def recorded(work: Callable[[], Tensor]) -> Callable[[], Tensor] | None:
    """`work` as a CUDA graph: a call does all of it on the device and returns the tensor that the recorded one wrote.

    None where it cannot be recorded. Recorded on a stream of its own, and with its errors kept to this thread, so that
    a training in another thread goes on beside it. `work` is done a few times.
    """
    if not torch.cuda.is_available():
        return None
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = work()
    except RuntimeError:  # of torch: an operation that cannot be recorded, or no memory for it
        return None
    finally:
        torch.cuda.current_stream().wait_stream(stream)

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
