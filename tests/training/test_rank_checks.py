"""What is checked when ranks meet, before any work."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from llm.errors import UserError, WrongUse
from llm.training.batch_plan import nearest_divisors
from llm.training.distributed import check_seen, check_versions, join_ranks, wait_for_ranks


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


def test_ranks_that_do_not_start_are_named() -> None:
    """As where a machine does not see the run, and its rank ends before it could say so to the others."""
    store, soon = HashStore(), timedelta(milliseconds=50)
    with pytest.raises(UserError, match=r"ranks 1, 2 of 3 did not start within 0 s; the output of torchrun there says"):
        wait_for_ranks(store, 0, 3, soon)
    with pytest.raises(UserError, match="rank 1 of 3 did not start"):
        wait_for_ranks(store, 2, 3, soon)
    wait_for_ranks(store, 1, 3, soon)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE is 'x'"),
        ({"WORLD_SIZE": "2"}, "MASTER_PORT is missing"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "29500"}, "RANK is missing"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "29500", "RANK": "2"}, "RANK is '2'"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "29500", "RANK": "1"}, "MASTER_ADDR is missing"),
    ],
)
def test_variables_that_torchrun_did_not_set_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    """As a batch system leaves some of them."""
    for variable in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(WrongUse, match=f"the environment variable {name}, though"), join_ranks("cpu"):
        pass
