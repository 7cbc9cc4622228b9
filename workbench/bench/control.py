"""Control traffic between many ranks, simulated in one process: each rank is a thread with its own gloo process group
over the loopback interface, and calls the functions that a real rank calls."""

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
    """Seconds and bytes over the loopback interface of `steps` broadcasts and one gather of measurements between
    `world_size` ranks. One machine does the work of all ranks, so real ranks are faster."""
    store, spans, failures = HashStore(), [], []

    def run(rank: int) -> None:
        try:
            spans.append(exchange(connect(store, rank, world_size), steps))
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world_size)]
    began, cpu_began = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    first, last = min(span.began for span in spans), max(span.ended for span in spans)
    return {
        "ranks": world_size,
        "broadcasts": steps,
        "gatherings": 1,
        "seconds": round(last.seconds - first.seconds, 2),
        "bytes": last.loopback_bytes - first.loopback_bytes,
        "seconds_with_connecting": round(time.perf_counter() - began, 1),
        "processor_seconds_with_connecting": round(time.process_time() - cpu_began, 1),
    }


class Counters(NamedTuple):
    """Seconds of a clock, and the bytes that all programs have received over the loopback interface so far."""

    seconds: float
    loopback_bytes: int

    @classmethod
    def read(cls) -> Counters:
        """See proc(5), /proc/net/dev."""
        lines = Path("/proc/net/dev").read_text().splitlines()
        line = next(line for line in lines if line.strip().startswith("lo:"))
        return cls(time.perf_counter(), int(line.split(":")[1].split()[0]))


class Span(NamedTuple):
    """The counters before and after the traffic of a rank."""

    began: Counters
    ended: Counters


def connect(store: Any, rank: int, world_size: int) -> Ranks:
    """A rank that opens each connection when it is first used: all connections of 512 ranks would be 130,000."""
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1", lazy_init=True)]
    options._threads, options._timeout = 1, TIMEOUT
    return Ranks(rank, world_size, world_size, ProcessGroupGloo(store, rank, world_size, options))


def exchange(ranks: Ranks, steps: int) -> Span:
    """Broadcast decisions `steps` times and gather measurements once, as `RankMetrics` does. An untimed broadcast and
    gather open the connections first."""
    value, measurements = DECISIONS if ranks.is_first else None, [ranks.rank, 0, 1 << 30]
    ranks.broadcast(value)
    ranks.gather(measurements)
    began = Counters.read()
    for _ in range(steps):
        assert ranks.broadcast(value) == DECISIONS
    assert len(ranks.gather(measurements)) == (ranks.world_size if ranks.is_first else 0)
    return Span(began, Counters.read())
