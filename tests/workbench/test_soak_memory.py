"""Half an hour of random use while a model trains: the workbench grows no further, and nothing goes wrong.

    python -m pytest tests/workbench/test_soak_memory.py -m soak -n 0 -s

`SOAK_MINUTES` and `SOAK_SEED` change how long it lasts and what is done.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workbench.soak import Report, Sample, Soak, make_home, print_last
from tests.workbench.soak_person import Person

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
SEED = int(os.environ.get("SOAK_SEED", "31"))
MB_A_MINUTE = 1.5
"""The growth of the memory that is allowed after the first third. 11 MB a minute were seen once."""
DESCRIPTORS, THREADS = 10, 8
"""How many more than in the first third there may be at the end, of either."""


def growth(samples: list[Sample], name: str) -> int:
    """By how much the least of the last third lies above the most of the first."""
    third = max(1, len(samples) // 3)
    values = [int(getattr(sample, name)) for sample in samples]
    return min(values[-third:]) - max(values[:third])


@pytest.mark.soak
def test_half_an_hour_of_random_use_while_training(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    soak = Soak(home, SEED, person=Person(SEED, quits=False), tick=print_last)
    report = soak.run(60 * MINUTES, train=True)
    print(report.summary())
    assert report.is_clean, "\n".join([*report.ends, *report.tracebacks, *report.stuck])
    assert sum(map(len, report.settled())) >= MINUTES, (
        "it was quit too often to tell how its memory grows; another SOAK_SEED"
    )
    assert report.slope() < MB_A_MINUTE
    assert growth(report.samples, "descriptors") <= DESCRIPTORS
    assert growth(report.samples, "threads") <= THREADS


def sample(seconds: float, megabytes: float, descriptors: int = 14, threads: int = 6) -> Sample:
    return Sample(seconds, megabytes, descriptors, threads, actions=1, silence=0.0)


def test_what_is_asserted_tells_a_leak_from_a_plateau() -> None:
    leak = Report(1, [sample(10.0 * i, 200 + 11 * i / 6, descriptors=14 + i, threads=6 + i) for i in range(60)])
    assert leak.slope() == pytest.approx(11.0)
    assert growth(leak.samples, "descriptors") > DESCRIPTORS and growth(leak.samples, "threads") > THREADS
    flat = Report(1, [sample(10.0 * i, 200 + min(i, 15) * 10 + i % 3, threads=6 + i % 4) for i in range(60)])
    assert flat.slope() < MB_A_MINUTE
    assert growth(flat.samples, "descriptors") <= 0 and growth(flat.samples, "threads") <= 0
