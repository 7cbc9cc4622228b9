"""What is loaded is left out of collections, and what was dropped is not kept."""

from __future__ import annotations

import gc
import weakref

from workbench.ui.garbage import freeze_loaded_objects


class Node:
    """Something that refers to itself, and so is never freed without the collector."""

    def __init__(self) -> None:
        self.self = self


def test_what_is_loaded_is_looked_at_no_more() -> None:
    held = [Node() for _ in range(10_000)]
    freeze_loaded_objects()
    assert gc.get_freeze_count() > len(held)
    assert len(gc.get_objects()) < 1000


def test_what_was_dropped_meanwhile_is_freed_at_the_next_call() -> None:
    node = Node()
    gone = weakref.ref(node)
    freeze_loaded_objects()
    del node
    gc.collect()
    assert gone() is not None
    freeze_loaded_objects()
    assert gone() is None
