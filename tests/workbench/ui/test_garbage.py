"""What is loaded is left out of collections, and what was dropped is not kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from workbench.ui.garbage import leave_out_what_is_loaded


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


class Node:
    """Something that refers to itself, and so is never freed without the collector."""

    def __init__(self) -> None:
        self.self = self


def test_what_is_loaded_is_looked_at_no_more() -> None:
    held = [Node() for _ in range(10_000)]
    leave_out_what_is_loaded()
    assert gc.get_freeze_count() > len(held)
    assert len(gc.get_objects()) < 1000


def test_what_was_dropped_meanwhile_is_freed_at_the_next_call() -> None:
    node = Node()
    gone = weakref.ref(node)
    leave_out_what_is_loaded()
    del node
    gc.collect()
    assert gone() is not None
    leave_out_what_is_loaded()
    assert gone() is None
