"""Sharded training: the same losses as one rank, checkpoints for any number of ranks, even work for Muon."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm.events import CoreEvaluated, Evaluated, Sampled, Saved
from llm.optim.placement import assign_owners
from llm.run import Run
from llm.run.checkpoints import MODEL
from llm.shards import rows_of
from llm.training.run import run_training
from llm.training.sharded_save import numbers_of_files
from tests.core.bundles_for_tests import write_bundle
from tests.forking import complete_on_ranks

from .conftest import MakeRun
from .test_resume import losses

SEQUENCES = 16  # per step, over all ranks and micro-batches
PLAIN = {
    "model__dropout": "0",
    "model__d_model": "16",
    "model__n_layer": "2",
    "evaluate__at_start": "false",
    "evaluate__every": "0",
    "sample__every": "0",
    "checkpoint__every": "0",
    "schedule__kind": "constant",
    "train__lr": "3e-3",
    "optim__matrix_lr": "3e-3",
}
ROUNDING = 1e-5
SLOW = pytest.mark.slow


def settings(ranks: int, accumulation: int, **more: str) -> dict[str, str]:
    batch = SEQUENCES // (ranks * accumulation)
    return PLAIN | {"train__batch_size": str(batch), "train__accumulation": str(accumulation)} | more


def train(run: Run, home: Path, ranks: int, *flags: str, per_machine: int = 0) -> None:
    """Train on `ranks` processes, or in this one; `per_machine` as in `complete_on_ranks`."""
    if ranks == 1:
        pairs = dict(zip(flags[::2], flags[1::2], strict=True))
        run_training(run, home, overrides=tuple((path.removeprefix("--"), value) for path, value in pairs.items()))
        return
    for ended in complete_on_ranks(ranks, str(run.path), *flags, per_machine=per_machine):
        assert ended.returncode == 0, ended.stderr


def test_fsdp_with_muon_trains_like_one_rank_and_its_checkpoint_continues_alone(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """Two ranks with FSDP2, then one process without: evaluated, sampled, saved, and resumed."""
    bundle = write_bundle(tmp_path / "bundle")
    more = {"optim__kind": "muon", "evaluate__every": "6", "sample__every": "6", "train__steps": "12"}
    more |= {"evaluate__batches": "0"}  # all of the text, whatever the size of a batch
    more |= {"evaluate__core_every": "6", "evaluate__core_path": str(bundle), "decode__temperature": "0"}
    alone = make_run("alone", **settings(1, 2, **more))
    sharded = make_run("sharded", **settings(2, 2, **more | {"train__steps": "6", "train__sharding": "fsdp"}))
    train(alone, tmp_path, 1)
    train(sharded, tmp_path, 2)
    train(sharded, tmp_path, 1, "--train.steps", "12")
    assert losses(sharded) == pytest.approx(losses(alone), rel=1e-4)
    one, two = ([e.validation_loss for e in run.events() if isinstance(e, Evaluated)] for run in (alone, sharded))
    assert len(one) == 2 and two == pytest.approx(one, rel=1e-4)
    scores, shared = ([e.tasks for e in run.events() if isinstance(e, CoreEvaluated)] for run in (alone, sharded))
    assert len(scores) == 2 and shared == scores
    texts, joint = ([e.text for e in run.events() if isinstance(e, Sampled)] for run in (alone, sharded))
    assert len(texts) >= 2 and joint[-2:] == texts[-2:]
    assert [event.step for event in sharded.events() if isinstance(event, Saved)] == [6, 12]


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=SLOW)])
def test_hsdp_in_two_groups_of_two_trains_like_one_rank(make_run: MakeRun, tmp_path: Path, optimizer: str) -> None:
    more = {"optim__kind": optimizer, "train__steps": "6", "evaluate__every": "6", "evaluate__batches": "0"}
    alone = make_run("alone", **settings(1, 1, **more))
    grouped = make_run("grouped", **settings(4, 1, **more, train__sharding="hsdp"))
    train(alone, tmp_path, 1)
    train(grouped, tmp_path, 4, per_machine=2)
    assert losses(grouped) == pytest.approx(losses(alone), rel=ROUNDING)
    whole, joined = (load_file(run.checkpoint().path / MODEL) for run in (alone, grouped))
    assert all(torch.allclose(joined[name], whole[name], atol=1e-5) for name in whole)
    train(grouped, tmp_path, 1, "--train.steps", "8")
    assert len(losses(grouped)) == 8


@SLOW
def test_weights_that_are_gathered_as_bf16_train_like_those_of_one_rank(make_run: MakeRun, tmp_path: Path) -> None:
    """The policy of mixed precision: to the precision of bf16, from weights, gradients and optimizer in fp32."""
    more = {"train__steps": "20", "train__precision": "bf16"}
    alone, sharded = make_run("alone", **settings(1, 1, **more)), make_run("sharded", **settings(2, 1, **more))
    train(alone, tmp_path, 1)
    train(sharded, tmp_path, 2, "--train.sharding", "fsdp")
    assert losses(sharded) == pytest.approx(losses(alone), rel=5e-3)
    assert {tensor.dtype for tensor in load_file(sharded.checkpoint().path / MODEL).values()} == {torch.float32}


@SLOW
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_loss_curves_of_100_steps_equal_those_of_one_rank(
    make_run: MakeRun, tmp_path: Path, optimizer: str, accumulation: int
) -> None:
    more = {"optim__kind": optimizer, "train__steps": "100"}
    alone = make_run("alone", **settings(1, accumulation, **more))
    train(alone, tmp_path, 1)
    worst: dict[tuple[str, int], float] = {}
    for ranks in (2, 4):
        for sharding in ("ddp", "fsdp"):
            run = make_run(f"{sharding}-{ranks}", **settings(ranks, accumulation, **more, train__sharding=sharding))
            train(run, tmp_path, ranks)
            pairs = [(losses(run)[step], loss) for step, loss in losses(alone).items()]
            worst[sharding, ranks] = max(abs(one - other) / other for one, other in pairs)
    print(optimizer, accumulation, worst)
    assert max(worst.values()) <= ROUNDING


@SLOW
def test_a_checkpoint_of_four_sharded_ranks_continues_on_any_number(make_run: MakeRun, tmp_path: Path) -> None:
    """4 with FSDP, 2 with DDP, 1, 3 with FSDP (of 12 sequences), and 4 again: one unbroken curve."""
    common = PLAIN | {"train__batch_size": "1", "optim__kind": "adamw"}
    alone = make_run("alone", **common, train__accumulation="12", train__steps="30")
    moving = make_run("moving", **common, train__accumulation="3", train__steps="6", train__sharding="fsdp")
    train(alone, tmp_path, 1)
    train(moving, tmp_path, 4)
    for steps, ranks, sharding in ((12, 2, "ddp"), (18, 1, "ddp"), (24, 3, "fsdp"), (30, 4, "fsdp")):
        train(moving, tmp_path, ranks, "--train.steps", str(steps), "--train.sharding", sharding)
    assert losses(moving) == pytest.approx(losses(alone), rel=1e-4)


def test_a_part_is_written_in_a_few_files_none_of_which_is_large() -> None:
    """torch holds a whole file in memory, twice (findings/dcp-safetensors-takes-twice-the-tensors.sh)."""
    tensors = {f"w{number}": torch.empty(1 << 20, device="meta") for number in range(40)}  # 4 MiB each
    files = Counter(numbers_of_files(tensors).values())
    assert len(files) == 8 and max(files.values()) == 5
    assert set(numbers_of_files({"a": torch.empty(1000), "b": torch.empty(1)}).values()) == {1}


def test_the_work_of_muon_is_spread_evenly() -> None:
    """GPT-2's matrices on 8 ranks: none has more than 1.1 of the mean."""
    shapes = [(768, 768), (768, 768), (768, 768), (768, 768), (3072, 768), (768, 3072)] * 12
    owners = assign_owners(shapes, 8)
    work = [sum(math.prod(s) * min(s) for s, o in zip(shapes, owners, strict=True) if o == rank) for rank in range(8)]
    assert max(work) <= 1.1 * sum(work) / 8


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (2, 4), (12, 4), (1, 1)])
def test_parts_cover_all_rows_once(rows: int, size: int) -> None:
    parts = [range(rows)[rows_of(rows, rank, size)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(rows))
