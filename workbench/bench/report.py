"""What all benchmarks report: the machine, and the spread of repeated measurements."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

from llm.limits import usable_cores

Result = dict[str, Any]
Item = TypeVar("Item")

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Stats:
    """Median, lowest and highest of some speeds or ratios, and the confidence interval of the median
    (`median_interval`). The confidence is below CONFIDENCE for fewer than six values."""

    median: float
    low: float
    high: float
    interval: tuple[float, float]
    confidence: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Stats:
        interval, confidence = median_interval(values)
        return cls(statistics.median(values), min(values), max(values), interval, confidence, tuple(values))


def alternate(items: Sequence[Item], turns: int) -> Iterator[Item]:
    """All items, `turns` times, in an order that is reversed every time (A B, B A, …): a machine that becomes slower or
    busier affects all of them alike."""
    for turn in range(turns):
        yield from items if turn % 2 == 0 else reversed(items)


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """`first` divided by `second`, pair by pair."""
    return [a / b for a, b in zip(first, second, strict=True)]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on `count` threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_interval(values: Sequence[float]) -> tuple[tuple[float, float], float]:
    """The narrowest interval between two order statistics, equally far from both ends, that contains the median of the
    distribution with CONFIDENCE, and its confidence; without assumptions about the distribution.

    The number of values below the median is binomial with p = 1/2 (Conover 1999, Practical Nonparametric Statistics,
    section 3.2). With too few values it is the whole range.
    """
    ordered, count = sorted(values), len(values)
    tail, rank = 0.0, 0  # probability that fewer than `rank` values are below the median
    while rank < (count - 1) // 2 and 2 * (tail + math.comb(count, rank) / 2**count) <= 1 - CONFIDENCE:
        tail += math.comb(count, rank) / 2**count
        rank += 1
    place = max(rank - 1, 0)
    outside = tail if rank else 1 / 2**count
    return (ordered[place], ordered[count - 1 - place]), 1 - 2 * outside


def ratio_text(ratio: Result) -> str:
    """A ratio as text: its median, the confidence interval of the median, and the range."""
    low, high = ratio["interval"]
    return (
        f"{ratio['median']:.2f} [{low:.2f}–{high:.2f}, {ratio['confidence']:.0%}] "
        f"({ratio['low']:.2f}–{ratio['high']:.2f})"
    )


def spread(values: Sequence[float]) -> Result:
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "count": len(values)}


def machine(*packages: str, **facts: Any) -> Result:
    """Usable cores, the versions of Python and of `packages`, and other `facts`."""
    versions = {name: metadata.version(name) for name in packages}
    return {"cores": usable_cores(), "python": platform.python_version(), **versions, **facts}


def device_name(device: str) -> str:
    """The name of a GPU, or the kind of processor and its widest instruction set according to torch."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
