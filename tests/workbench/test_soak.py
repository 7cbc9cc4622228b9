"""The workbench under random keys; `python -m tests.workbench.soak` does it for longer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.workbench.soak import Report, Sample, Soak, make_home, tracebacks_in
from tests.workbench.soak_person import Person


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_minute_of_random_keys(tmp_path: Path, seed: int) -> None:
    home = tmp_path / "home"
    make_home(home)
    report = Soak(home, seed).run(60)
    assert report.samples
    assert report.is_clean, "\n".join([*report.ends, *report.tracebacks, *report.stuck])


def test_a_seed_gives_the_same_keys_and_sizes() -> None:
    def walk(seed: int) -> list[object]:
        person = Person(seed)
        return [(person.sizes(), person.keys()) for _ in range(300)]

    assert walk(1) == walk(1)
    assert walk(1) != walk(2)


def test_the_report_tells_how_memory_grows() -> None:
    samples = [Sample(10.0 * n, 100.0 + 2.0 * n, 9, 5, n, 0.0) for n in range(30)]
    assert Report(1, samples).slope() == pytest.approx(12.0)
    assert Report(1, samples[:1]).slope() == 0.0


def test_a_model_that_trains_for_a_while_is_no_growth() -> None:
    samples = [Sample(10.0 * n, 700.0 if 80 <= n < 100 else 500.0, 9, 5, n, 0.0) for n in range(100)]
    assert Report(1, samples).slope() == 0.0


def test_a_start_after_it_was_quit_is_no_growth() -> None:
    samples = [Sample(10.0 * n, 100.0 if n < 12 else 400.0, 9, 5, n, 0.0, start=n // 12) for n in range(24)]
    report = Report(1, samples, quits=1)
    assert [len(one) for one in report.settled()] == [4, 4]
    assert report.slope() == 0.0
    assert Report(
        1, [replace(one, rss_mb=one.rss_mb + one.seconds / 30) for one in samples], quits=1
    ).slope() == pytest.approx(2.0)


def test_tracebacks_are_found_in_the_logs(tmp_path: Path) -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nKeyError: 1'
    (tmp_path / "workbench.log").write_text(f"words\n{trace}\nmore\n{trace}\n", encoding="utf-8")
    assert tracebacks_in(tmp_path) == [trace, trace]
