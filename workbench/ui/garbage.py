"""Keeping Python's garbage collector from stopping the keys and the training."""

from __future__ import annotations

import gc


def leave_out_what_is_loaded() -> None:
    """Collect now, and pass over everything that is left in the collections to come.

    With torch loaded there are a quarter of a million objects that stay. A full collection looks at them all and stops
    every thread meanwhile, for 0.2 s on the machine where this was measured, every few seconds where much is drawn.
    What was passed over before is looked at again here, so nothing is kept for good: to be called when much was loaded,
    and when much was dropped.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
