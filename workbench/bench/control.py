"""What many ranks send each other between two steps, simulated in one process: each rank is a thread with its own gloo
group member, connected over the loopback interface, and calls what a real rank calls."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed import HashStore, ProcessGroupGloo  # type: ignore[attr-defined]

from llm.training.distributed import Ranks
from workbench.bench.report import Result

RANKS, STEPS = 512, 20
DECISIONS = {"stop": False, "set": [], "roll back": "", "measure": False, "best": 3.2958}
"""What rank 0 broadcasts before each step (`CommandHandler`)."""
TIMEOUT = timedelta(minutes=10)


def measure_control(world_size: int = RANKS, steps: int = STEPS) -> Result:
    """Seconds of a broadcast and of a gathering of measurements, and bytes over the loopback interface, between
    `world_size` ranks. One machine does the work of all, so real ones are faster."""
    store, found, failures = HashStore(), [], []

    def run(rank: int) -> None:
        try:
            found.append(exchange(connect(store, rank, world_size), steps))
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world_size)]
    began, processor = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    result: Result = {"ranks": world_size, "broadcasts": steps}
    for name, count in (("broadcast", steps), ("gathering", 1)):
        first, last = min(one[name].began for one in found), max(one[name].ended for one in found)
        result[f"seconds_per_{name}"] = round((last.seconds - first.seconds) / count, 4)
        result[f"bytes_per_{name}"] = (last.loopback_bytes - first.loopback_bytes) // count
    return result | {
        "seconds_in_all": round(time.perf_counter() - began, 1),
        "processor_seconds_in_all": round(time.process_time() - processor, 1),
    }


class Moment(NamedTuple):
    """Seconds of a clock, and the bytes received over the loopback interface so far, by all programs."""

    seconds: float
    loopback_bytes: int

    @classmethod
    def now(cls) -> Moment:
        """See proc(5), /proc/net/dev."""
        lines = Path("/proc/net/dev").read_text().splitlines()
        line = next(line for line in lines if line.strip().startswith("lo:"))
        return cls(time.perf_counter(), int(line.split(":")[1].split()[0]))


class Span(NamedTuple):
    """When a rank began something, and when it had ended."""

    began: Moment
    ended: Moment


def connect(store: Any, rank: int, world_size: int) -> Ranks:
    """A rank whose connections are made when they are first used: all at once would be 130,000."""
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1", lazy_init=True)]
    options._threads, options._timeout = 1, TIMEOUT
    return Ranks(rank, world_size, world_size, ProcessGroupGloo(store, rank, world_size, options))


def exchange(ranks: Ranks, steps: int) -> dict[str, Span]:
    """Broadcast decisions `steps` times, and gather measurements as `RankMetrics` does, once all are connected."""
    measurements = [ranks.rank, 0, 1 << 30]
    meet(ranks)
    began = Moment.now()
    for _ in range(steps):
        assert ranks.broadcast(DECISIONS if ranks.is_first else None) == DECISIONS
    sent = Span(began, Moment.now())
    meet(ranks)
    began = Moment.now()
    assert len(ranks.gather(measurements)) == (ranks.world_size if ranks.is_first else 0)
    return {"broadcast": sent, "gathering": Span(began, Moment.now())}


def meet(ranks: Ranks) -> None:
    """Return when all ranks have called this."""
    ranks.gather([ranks.rank])
    ranks.broadcast(True)
