"""Other processes that use the processors."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

MIN_CORES = 0.3  # a process that uses less hardly slows training
SECONDS = 0.3


@dataclass(frozen=True)
class Busy:
    """A process and the cores it used on average."""

    pid: int
    name: str
    cores: float

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}) uses {self.cores:.1f} cores"


def busy_processes(seconds: float = SECONDS) -> list[Busy]:
    """Every visible process but this one that used MIN_CORES or more during the next `seconds`, busiest first.

    In a container only its own processes are visible.
    """
    began, before = time.perf_counter(), processor_seconds()
    time.sleep(seconds)
    elapsed, after = time.perf_counter() - began, processor_seconds()
    found = [
        Busy(pid, name, (after[pid, name] - used) / elapsed)
        for (pid, name), used in before.items()
        if (pid, name) in after
    ]
    return sorted((one for one in found if one.cores >= MIN_CORES), key=lambda one: -one.cores)


def processor_seconds() -> dict[tuple[int, str], float]:
    """CPU seconds of every visible process but this one, by id and name."""
    import psutil  # not needed for the first screen

    used = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if process.pid != os.getpid() and times is not None:
            used[process.pid, process.info["name"] or "?"] = times.user + times.system
    return used


def idle_core_seconds() -> float:
    """Seconds that the processors of this machine have been idle, of all together, since it was started."""
    import psutil

    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0))
