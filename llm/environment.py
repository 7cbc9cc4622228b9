"""What must be set before torch is imported. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import os

from llm.limits import allowed_processors, usable_cores

SPINS = "2000"
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names glibc's mallopt has for them, in <malloc.h>
MAPPED_BYTES, KEPT_BYTES = 16 << 20, 64 << 20


def settle_process() -> None:
    """What a process that trains settles before torch comes: how threads wait, and where large tensors lie."""
    settle_threads()
    settle_memory()


def settle_memory() -> None:
    """Let glibc map tensors of 16 MB and more from the system each by itself, and give them back when they are freed.

    Left alone it soon keeps whatever is below 32 MB in one heap, where the activations of a large model leave holes
    that the next step does not fit into: two layers of GPT-2's width at 8 × 1024 tokens grew to 3.0 GB where 2.1 GB is
    the estimate, and to 2.4 GB like this, at the same speed (`docs/performance.md`). Whoever has set
    `MALLOC_MMAP_THRESHOLD_` keeps what was set. Does nothing where the C library is another.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def settle_threads() -> None:
    """Let idle arithmetic threads spin only briefly before they sleep. Has no effect once torch is loaded.

    OpenMP's default is to spin on between two parallel regions, which collapses on a machine with anything else to do;
    not to spin at all loses a third on a quiet one. Measured on two cores with a step of quickstart, tokens/s: by
    default 30,500 quiet and mostly 200 to 2,800 beside other work;
    sleeping at once 19,500 and 18,200; this 31,400 and 10,900.
    Whoever has set `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` keeps what was set.

    OpenMP starts a thread for each processor. Where a control group allows less processor time than that, it is told
    to start fewer, unless `OMP_NUM_THREADS` says otherwise: threads beyond the quota make all of them stand still.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if usable_cores() < allowed_processors():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
