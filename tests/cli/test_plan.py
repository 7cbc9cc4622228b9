"""`llm-workbench plan`: the page computed by it, and its figures against counts by hand."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from llm.config import load_preset, with_overrides
from llm.scale import MACHINES, communication, newton_schulz_flops, plan
from tests.model.models_for_tests import tiny
from workbench.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
COMMAND = re.compile(r"```\n\$ llm-workbench (plan .*)\n((?:.*\n)*?)```")


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = COMMAND.findall(PAGE.read_text(encoding="utf-8"))
    assert len(found) == 4
    for command, shown in found:
        assert main(["--home", str(tmp_path), *shlex.split(command)]) == 0
        assert capsys.readouterr().out.rstrip() == shown.rstrip(), command


def test_json_has_what_the_table_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--home", str(tmp_path), "plan", "gpt2-124m", "--gpus", "1,8", "--json"]) == 0
    one, eight = json.loads(capsys.readouterr().out)
    assert (one["gpus"], one["moved_bytes"], one["sharding"]) == (1, 0.0, "none")
    assert one["checkpoint_bytes"] == 12 * one["parameters"] == eight["checkpoint_bytes"]  # weights and two moments
    assert eight["moved_bytes"] == pytest.approx(2 * 7 / 8 * 4 * one["parameters"])


def test_sharded_state_shrinks_with_the_ranks(tmp_path: Path) -> None:
    config = with_overrides(load_preset("gpt2-124m", tmp_path), [("train.sharding", "fsdp")])
    machine = MACHINES["H100"]
    some, many = (plan(config, gpus, machine) for gpus in (2, 64))
    per_rank = 16 * some.parameters  # weights, gradients, two moments
    assert some.state_bytes - many.state_bytes == pytest.approx(per_rank * (1 / 2 - 1 / 64))
    assert many.fits


def test_hsdp_moves_little_between_machines() -> None:
    machine = replace(MACHINES["H100"], within=1e9, between=1e9)
    moved, _ = communication("hsdp", 1000, 2, 16, 8, 1, machine)
    assert moved == pytest.approx(7 / 8 * 8000 + 2 * 1 / 2 * 4000 / 8)


def test_newton_schulz_by_hand() -> None:
    """A block with four matrices 2 × 2 and two of 2 × 2 in the feed-forward: each XXᵀ 16, A² 16, the product 16."""
    model = tiny(n_layer=1, d_model=2, n_head=1, n_kv_head=1, d_ff=2, mlp="gelu")
    assert newton_schulz_flops(model) == 6 * 5 * 48


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpus", "8,x"), "--gpus takes numbers such as 8,512"),
        (("--gpu", "V9"), "nothing is known of a GPU V9"),
        (("--mfu", "2"), "--mfu is a share above 0"),
        (("--gpus", "48", "--train.total-batch-tokens", "524288"), "such as 540672"),
    ],
)
def test_wrong_use_is_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    assert main(["--home", str(tmp_path), "plan", "gpt2-124m", *words]) == 2
    assert message in capsys.readouterr().err
