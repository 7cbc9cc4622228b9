"""Avoiding pauses by Python's garbage collector."""

from __future__ import annotations

import gc


def freeze_loaded_objects() -> None:
    """Collect now, and exclude the remaining objects from later collections.

    PyTorch leaves a quarter of a million permanent objects. A full collection visits all of them and stops every thread
    for 0.2 s (measured), every few seconds while charts are drawn. Objects excluded earlier are collected here too, so
    call it after much was loaded or dropped.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
