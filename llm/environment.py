"""What this process may use, and what must be set before torch is imported. Imports nothing heavy."""

from __future__ import annotations

import os

SPINS = "2000"


def settle_threads() -> None:
    """Let idle arithmetic threads spin only briefly before they sleep. Has no effect once torch is loaded.

    OpenMP's default is to spin on between two parallel regions, which collapses on a machine with anything else to do;
    not to spin at all loses a third on a quiet one. Measured on two cores with a step of quickstart, tokens/s: by
    default 30,500 quiet and mostly 200 to 2,800 beside other work;
    sleeping at once 19,500 and 18,200; this 31,400 and 10,900.
    Whoever has set `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` keeps what was set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
