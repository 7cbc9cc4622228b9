"""Process settings that must be made before torch is imported. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import os

from llm.limits import allowed_processors, usable_cores

SPINS = "2000"
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's mallopt, <malloc.h>
MAPPED_BYTES, KEPT_BYTES = 16 << 20, 64 << 20


def configure_process() -> None:
    """Configure threads and malloc; call it before torch is imported."""
    configure_threads()
    configure_malloc()


def configure_malloc() -> None:
    """Make glibc map each allocation of 16 MB or more separately, and return it to the system when it is freed.

    By default, glibc soon puts allocations below 32 MB on one heap, which the activations of a large model fragment:
    two layers of GPT-2's width at 8 × 1024 tokens took 3.0 GB, 2.4 GB with this setting, at the same speed; the
    estimate is 2.1 GB (`docs/performance.md`). `MALLOC_MMAP_THRESHOLD_` takes precedence. Other C libraries are left
    as they are.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def return_free_memory() -> None:
    """Return to the system what glibc keeps of freed memory. It may keep `KEPT_BYTES` for each thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def configure_threads() -> None:
    """Make idle OpenMP threads spin only briefly before they sleep. Has no effect once torch is loaded.

    By default, OpenMP threads spin between parallel regions, which is very slow on a busy machine; not spinning costs
    a third on an idle one. Tokens/s of quickstart on two cores, idle and busy: default 30,500 and mostly 200 to 2,800;
    no spinning 19,500 and 18,200; this setting 31,400 and 10,900. `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT` take
    precedence.

    OpenMP starts one thread per processor. Under a smaller CPU quota it gets fewer threads, since threads beyond the
    quota stall all others; `OMP_NUM_THREADS` takes precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if usable_cores() < allowed_processors():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
