"""The device, precision and number of threads of a run, chosen once and stored in its checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from llm.config import TrainConfig
from llm.errors import WrongUse
from llm.limits import machine_processors, usable_cores

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Dense bf16 FLOP/s from the manufacturers' data sheets, for MFU. An unknown device has no MFU.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
}

# Above this much work in a micro-batch more threads are always faster, and measuring would take long.
MEASURED_BELOW_FLOPS = 2e11
MIN_TURNS, MAX_TURNS, TURNS_SECONDS = 2, 4, 2.0  # of each number of threads that is tried
CLEARLY_FASTER = 0.1  # less time a step, from which a change of the number of threads is worth it


@dataclass(frozen=True)
class Plan:
    """The resolved `auto` choices of a run; stored in its checkpoints and reused when it is resumed."""

    device: str
    precision: str
    threads: int
    compiled: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """The mixed-precision context of one forward pass."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=DTYPES[self.precision])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def choose_device(wanted: str) -> str:
    """The device named `wanted`; `auto` prefers CUDA, then MPS, then the CPU."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError:
        raise WrongUse(f"there is no device {wanted}; use auto, cpu, cuda, cuda:N or mps.") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    is_missing = kind == "cuda" and (torch.device(wanted).index or 0) >= torch.cuda.device_count()
    if is_missing or not available.get(kind, False):
        raise WrongUse(f"the device {wanted} is not available on this machine; use auto or cpu.")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """`auto` is bf16 if the hardware supports it (measured: 1.3 times the speed of fp32 on a CPU with AVX512-BF16)."""
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device == "cpu" and cpu_multiplies_bf16() else "fp32"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 matrix instructions, and oneDNN may use them.

    `ONEDNN_MAX_CPU_ISA` can forbid them; bf16 products then take 80 times as long as those of fp32.
    """
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return bool(torch.cpu._is_avx512_bf16_supported())


def make_plan(config: TrainConfig, stored: dict[str, Any] | None = None) -> Plan:
    """Resolve `auto`; the plan `stored` in a checkpoint is reused on the same device. `threads` may stay 0.

    They are at most the processors of this machine: with the 4,000 that a file may ask for, a step takes a minute, or
    they cannot be started, which ends the process.
    """
    device = choose_device(config.device)
    if stored is not None and stored["device"] == device:
        return Plan(**(stored | {"threads": at_most_processors(stored["threads"])}))
    precision = choose_precision(config.precision, device)
    compiled = config.compile == "on" or (config.compile == "auto" and device.startswith("cuda"))
    return Plan(device, precision, at_most_processors(config.threads), compiled)


def at_most_processors(threads: int) -> int:
    """`threads`, or the number of this machine's processors if there are fewer."""
    return min(threads, machine_processors())


def choose_threads(step: Callable[[], object], flops: float) -> int:
    """The number of CPU threads that runs `step` (about `flops` of work) fastest, by measurement."""
    cores = usable_cores()
    return cores if cores == 1 or flops > MEASURED_BELOW_FLOPS else fastest_threads(step)


def fastest_threads(step: Callable[[], object], current: int = 0) -> int:
    """The number of CPU threads with which the fastest of several calls of `step` is fastest; `current` unless another
    number is clearly faster.

    The numbers take turns, so that a moment in which another process is busy slows all of them. A slow `step` has fewer
    turns.
    """
    cores = usable_cores()
    seconds = dict.fromkeys(sorted({1, max(1, cores // 2), cores}), math.inf)
    began = time.perf_counter()
    for turn in range(MAX_TURNS):
        if turn >= MIN_TURNS and time.perf_counter() - began > TURNS_SECONDS:
            break
        for threads in seconds:
            torch.set_num_threads(threads)
            if turn == 0:
                step()  # the first step starts the threads
            seconds[threads] = min(seconds[threads], time_call(step))
    if current in seconds:
        seconds[current] *= 1 - CLEARLY_FASTER
    return min(seconds, key=lambda threads: seconds[threads])


def time_call(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def memory_in_use(device: str) -> int:
    """Bytes: the peak of the device's allocator, or the resident memory of this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def peak_flops(device: str) -> float | None:
    """The device's peak in FLOP/s (dense bf16); None if unknown."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)
