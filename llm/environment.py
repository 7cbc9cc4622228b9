"""What must be set before torch is imported. Imports nothing heavy."""

from __future__ import annotations

import os


def settle_threads() -> None:
    """Let idle arithmetic threads sleep instead of spinning.

    OpenMP's default is to spin between two parallel regions. On a machine with anything else to do that collapses:
    measured on two cores beside other work, under 700 tokens/s spinning against 5,100 sleeping. On a quiet machine
    sleeping costs a few per cent. Whoever has set `OMP_WAIT_POLICY` keeps what was set. Has no effect once torch is
    loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
