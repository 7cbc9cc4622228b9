"""The thread that computes ahead."""

from __future__ import annotations

import threading

import pytest

from llm.data.batches.prefetch import Prefetcher


def test_values_in_order_computed_on_another_thread() -> None:
    seen: list[int] = []

    def function(i: int) -> tuple[int, int]:
        seen.append(i)
        return i * i, threading.get_ident()

    with Prefetcher(function, start=3) as prefetcher:
        values = [prefetcher.get(i) for i in range(3, 20)]
    assert [value for value, _ in values] == [i * i for i in range(3, 20)]
    assert all(thread != threading.get_ident() for _, thread in values)
    assert seen == list(range(3, 3 + len(seen)))


def test_runs_ahead_by_depth_and_no_more() -> None:
    reached = threading.Semaphore(0)
    with Prefetcher(lambda i: reached.release() or i, start=0, depth=2) as prefetcher:
        for _ in range(3):  # two in the queue and one waiting to enter it
            assert reached.acquire(timeout=120)
        assert not reached.acquire(timeout=0.2)
        assert prefetcher.get(0) == 0
        assert reached.acquire(timeout=120)


def test_exception_is_raised_where_its_value_is_asked_for() -> None:
    def function(i: int) -> int:
        if i == 2:
            raise OSError("gone")
        return i

    with Prefetcher(function, start=0) as prefetcher:
        assert [prefetcher.get(0), prefetcher.get(1)] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                prefetcher.get(2)


def test_out_of_order_and_after_close_are_refused() -> None:
    prefetcher = Prefetcher(lambda i: i, start=0)
    with pytest.raises(ValueError, match="0 comes next"):
        prefetcher.get(1)
    prefetcher.close()
    prefetcher.close()
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="closed"):
        prefetcher.get(0)
