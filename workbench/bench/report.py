"""What all benchmarks report: the machine, and the spread of repeated measurements."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from llm.limits import usable_cores

Result = dict[str, Any]


@dataclass(frozen=True)
class Speed:
    """Median, lowest and highest of some speeds or ratios."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Speed:
        return cls(statistics.median(values), min(values), max(values))


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
