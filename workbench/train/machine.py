"""How busy the machine is: CPU, memory, and NVIDIA GPUs where their library is installed."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import psutil

from llm.limits import memory
from workbench.formatting import format_size


@dataclass(frozen=True)
class Gpu:
    """One GPU: share of time it computed in percent, memory in bytes, power in watts, temperature in °C; None where
    the driver does not say."""

    index: int
    used_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    watts: float | None = None
    celsius: float | None = None


@dataclass(frozen=True)
class Reading:
    """One look at the machine. `cpu_percent` is of all cores, since the look before; memory in bytes."""

    cpu_percent: float
    memory_used: int
    memory_total: int
    gpus: tuple[Gpu, ...] = ()


class Machine:
    """Looks at the machine. A look takes milliseconds, with GPUs tens of them: not for the screen's own thread."""

    def __init__(self, nvml: ModuleType | None = None) -> None:
        """`nvml`: NVIDIA's library, where it is not the installed one."""
        self._nvml = nvml
        self._sought = nvml is not None
        self._devices: list[object] | None = None

    def look(self) -> Reading:
        held = memory()
        return Reading(psutil.cpu_percent(None), held.total - held.available, held.total, self._gpus())

    def _gpus(self) -> tuple[Gpu, ...]:
        if not self._sought:
            self._sought = True
            self._nvml = imported("pynvml")
        nvml = self._nvml
        if nvml is None:
            return ()
        try:
            if self._devices is None:
                nvml.nvmlInit()
                self._devices = [nvml.nvmlDeviceGetHandleByIndex(at) for at in range(nvml.nvmlDeviceGetCount())]
            return tuple(gpu(nvml, index, device) for index, device in enumerate(self._devices))
        except nvml.NVMLError:
            self._nvml = None  # no driver, or it went away: from now on there are none
            return ()


def imported(name: str) -> ModuleType | None:
    """The module of that name, if it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def gpu(nvml: ModuleType, index: int, device: object) -> Gpu:
    """What the driver says of one GPU; not every GPU can tell everything."""

    def told(ask: str, *more: object) -> object | None:
        try:
            answer: object = getattr(nvml, ask)(device, *more)
        except nvml.NVMLError_NotSupported:
            return None
        return answer

    rates, memory = told("nvmlDeviceGetUtilizationRates"), told("nvmlDeviceGetMemoryInfo")
    milliwatts, celsius = told("nvmlDeviceGetPowerUsage"), told("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    return Gpu(
        index,
        used_percent=None if rates is None else float(rates.gpu),  # type: ignore[attr-defined]
        memory_used=None if memory is None else int(memory.used),  # type: ignore[attr-defined]
        memory_total=None if memory is None else int(memory.total),  # type: ignore[attr-defined]
        watts=None if milliwatts is None else float(milliwatts) / 1000,  # type: ignore[arg-type]
        celsius=None if celsius is None else float(celsius),  # type: ignore[arg-type]
    )


def told(reading: Reading) -> str:
    """A reading in one line."""
    parts = [
        f"CPU {reading.cpu_percent:.0f}%  "
        f"memory {format_size(reading.memory_used)} of {format_size(reading.memory_total)}"
    ]
    for one in reading.gpus:
        figures = [f"GPU {one.index}"]
        if one.used_percent is not None:
            figures.append(f"{one.used_percent:.0f}%")
        if one.memory_used is not None and one.memory_total is not None:
            figures.append(f"{format_size(one.memory_used)} of {format_size(one.memory_total)}")
        if one.watts is not None:
            figures.append(f"{one.watts:.0f} W")
        if one.celsius is not None:
            figures.append(f"{one.celsius:.0f} °C")
        parts.append(" ".join(figures))
    return "   ".join(parts)
