"""The load of the machine: CPU, memory, and NVIDIA GPUs where their library is installed."""

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
    the driver does not report it."""

    index: int
    used_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    watts: float | None = None
    celsius: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One measurement. `cpu_percent` is of all cores, since the previous one; memory in bytes."""

    cpu_percent: float
    memory_used: int
    memory_total: int
    gpus: tuple[Gpu, ...] = ()


class Machine:
    """Measures the load. It takes milliseconds, with GPUs tens of them: call it in a thread."""

    def __init__(self, nvml: ModuleType | None = None) -> None:
        """`nvml` replaces the installed NVIDIA library."""
        self._nvml = nvml
        self._is_loaded = nvml is not None
        self._devices: list[object] | None = None

    def measure(self) -> Measurement:
        held = memory()
        return Measurement(psutil.cpu_percent(None), held.total - held.available, held.total, self._gpus())

    def _gpus(self) -> tuple[Gpu, ...]:
        if not self._is_loaded:
            self._is_loaded = True
            self._nvml = import_or_none("pynvml")
        nvml = self._nvml
        if nvml is None:
            return ()
        try:
            if self._devices is None:
                nvml.nvmlInit()
                self._devices = [nvml.nvmlDeviceGetHandleByIndex(at) for at in range(nvml.nvmlDeviceGetCount())]
            return tuple(gpu(nvml, index, device) for index, device in enumerate(self._devices))
        except nvml.NVMLError:
            self._nvml = None  # no driver, or it failed: report no GPUs from now on
            return ()


def import_or_none(name: str) -> ModuleType | None:
    """The module of that name, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def gpu(nvml: ModuleType, index: int, device: object) -> Gpu:
    """One GPU; a driver does not report every value."""

    def query(ask: str, *more: object) -> object | None:
        try:
            answer: object = getattr(nvml, ask)(device, *more)
        except nvml.NVMLError_NotSupported:
            return None
        return answer

    rates, memory = query("nvmlDeviceGetUtilizationRates"), query("nvmlDeviceGetMemoryInfo")
    milliwatts, celsius = query("nvmlDeviceGetPowerUsage"), query("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    return Gpu(
        index,
        used_percent=None if rates is None else float(rates.gpu),  # type: ignore[attr-defined]
        memory_used=None if memory is None else int(memory.used),  # type: ignore[attr-defined]
        memory_total=None if memory is None else int(memory.total),  # type: ignore[attr-defined]
        watts=None if milliwatts is None else float(milliwatts) / 1000,  # type: ignore[arg-type]
        celsius=None if celsius is None else float(celsius),  # type: ignore[arg-type]
    )


def describe_machine(measurement: Measurement) -> str:
    """A measurement in one line."""
    parts = [
        f"CPU {measurement.cpu_percent:.0f}%  "
        f"memory {format_size(measurement.memory_used)} of {format_size(measurement.memory_total)}"
    ]
    for one in measurement.gpus:
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
