"""What is checked when ranks meet, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.errors import WrongUse
from llm.training.batch_plan import nearest_divisors
from llm.training.distributed import check_seen, check_versions


def test_other_versions_are_refused_by_rank_and_host() -> None:
    same = (1, "a", "llm-workbench 1.0 with torch 2.13")
    check_versions([same, same])
    with pytest.raises(WrongUse, match=r"rank 1 on b runs llm-workbench 0\.9 with torch 2\.13, and rank 0 on a"):
        check_versions([same, (7, "b", "llm-workbench 0.9 with torch 2.13")])


def test_a_directory_that_is_not_shared_is_refused_by_rank_and_host() -> None:
    check_seen([(True, "a"), (True, "b")], Path("/runs/x"))
    with pytest.raises(WrongUse, match="rank 1 on b does not see the files that rank 0 on a writes in /runs/x"):
        check_seen([(True, "a"), (False, "b")], Path("/runs/x"))


@pytest.mark.parametrize(("number", "wanted", "found"), [(8, 3, [2, 4]), (8, 9, [8]), (8, 4, [4, 4]), (7, 2, [1, 7])])
def test_the_nearest_numbers_of_ranks(number: int, wanted: int, found: list[int]) -> None:
    assert nearest_divisors(number, wanted) == found
