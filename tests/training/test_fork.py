"""A fork goes on exactly as its parent did, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from llm.config import RunConfig, with_overrides
from llm.errors import ConfigError, UserError, WrongUse
from llm.events import Started
from llm.files import read_json, remove_directory
from llm.run import Run, list_runs
from llm.run.fork import fork, fork_problems, keeps_optimizer_state, open_parent
from llm.training.run import run_training

from .conftest import MakeRun
from .test_resume import losses


@pytest.fixture
def parent_run(make_run: MakeRun, tmp_path: Path) -> Run:
    run = make_run("whole")
    run_training(run, tmp_path)
    return run


def begun(run: Run) -> Started:
    return next(event for event in run.events() if isinstance(event, Started))


def with_fields(config: RunConfig, **fields: str) -> RunConfig:
    return with_overrides(config, [(path.replace("__", "."), text) for path, text in fields.items()])


def test_an_unchanged_fork_ends_as_its_parent_bit_for_bit(parent_run: Run, tmp_path: Path) -> None:
    parent = open_parent(tmp_path, "whole@14")
    child = fork(tmp_path, parent, parent.config)
    assert (child.name, child.info()["parent"]) == ("whole-fork-1", "whole@14")
    assert child.info()["parent_id"] == parent_run.info()["id"]
    assert [info.step for info in child.checkpoints()] == [14]
    assert run_training(child, tmp_path).status == "finished"
    assert begun(child).step == 14
    expected = {step: loss for step, loss in losses(parent_run).items() if step > 14}
    assert losses(child) == expected and len(expected) == 10
    for name in ("model.safetensors", "optimizer.safetensors"):
        first, second = (load_file(run.checkpoint().path / name) for run in (parent_run, child))
        assert all(first[key].equal(second[key]) for key in first), name
    assert fork(tmp_path, open_parent(tmp_path, child.name), with_fields(child.config(), train__steps="30")).name == (
        "whole-fork-2"
    )


def test_a_checkpoint_that_its_trainer_removes_meanwhile_is_named_when_it_is_copied(
    parent_run: Run, tmp_path: Path
) -> None:
    """Until then the form of a fork, which checks every change, does not need its files."""
    parent = open_parent(tmp_path, "whole@14")
    remove_directory(parent.checkpoint.path)
    assert fork_problems(parent, parent.config) == [] and keeps_optimizer_state(parent, parent.config)
    with pytest.raises(UserError, match="step-00000014"):
        fork(tmp_path, parent, parent.config)
    assert [run.name for run in list_runs(tmp_path)] == ["whole"]


def test_live_settings_of_the_parent_are_in_the_fork(make_run: MakeRun, tmp_path: Path) -> None:
    run, same = make_run("short", train__steps="7", schedule__kind="constant"), make_run("other")
    run_training(run, tmp_path)
    run_training(run, tmp_path, overrides=(("train.steps", "12"), ("train.lr_multiplier", "0.5")))
    parent = open_parent(tmp_path, "short@12")
    assert (parent.config.train.steps, parent.config.train.lr_multiplier) == (12, 0.5)
    with pytest.raises(ConfigError, match=r"train\.steps: must be above 12"):
        fork(tmp_path, parent, parent.config)
    child = fork(tmp_path, parent, with_fields(parent.config, train__steps="15"), name="child")
    run_training(child, tmp_path)
    run_training(run, tmp_path, overrides=(("train.steps", "15"),))
    first, second = (load_file(one.checkpoint().path / "model.safetensors") for one in (run, child))
    assert all(first[key].equal(second[key]) for key in first)
    assert same.checkpoints() == []


def test_the_rows_of_a_step_are_the_parents_until_the_batch_is_changed(parent_run: Run, tmp_path: Path) -> None:
    parent = open_parent(tmp_path, "whole@14")
    assert parent.state["rows"] == 6

    def rows_of(**fields: str) -> object:
        child = fork(tmp_path, parent, with_fields(parent.config, **fields))
        return read_json(child.checkpoint().path / "state.json")["rows"]

    assert (rows_of(), rows_of(train__seed="2"), rows_of(train__batch_size="3")) == (6, 6, 0)
    child = fork(tmp_path, parent, with_fields(parent.config, train__batch_size="3", train__steps="15"), name="wider")
    run_training(child, tmp_path)
    assert begun(child).tokens_per_step == 3 * 3 * 16


def test_another_optimizer_takes_the_weights_alone(parent_run: Run, tmp_path: Path) -> None:
    parent = open_parent(tmp_path, "whole@21")
    config = with_fields(parent.config, optim__kind="sgd", train__steps="3")
    assert not keeps_optimizer_state(parent, config)
    child = fork(tmp_path, parent, config, name="sgd")
    first, second = (load_file(info.path / "model.safetensors") for info in (parent.checkpoint, child.checkpoint()))
    assert all(first[key].equal(second[key]) for key in first)
    assert child.checkpoint().step == 0
    assert run_training(child, tmp_path).step == 3
    assert losses(child)[1] < losses(parent_run)[1] - 0.5, "it begins where the parent was, not where weights are drawn"
    asked = fork(tmp_path, parent, parent.config, name="asked", weights_only=True)
    assert asked.checkpoint().step == 0 and not (asked.checkpoint().path / "optimizer.safetensors").exists()


def test_shape_and_tokenizer_are_refused_by_name(parent_run: Run, tmp_path: Path) -> None:
    parent = open_parent(tmp_path, "whole@14")
    config = with_fields(parent.config, model__d_model="24", tokenizer__kind="char", model__dropout="0")
    with pytest.raises(ConfigError) as caught:
        fork(tmp_path, parent, config, name="no")
    assert [problem.path for problem in caught.value.problems] == ["tokenizer.kind", "model.d_model"]
    assert not (tmp_path / "runs" / "no").exists()
    assert fork_problems(parent, with_fields(parent.config, model__dropout="0.2", model__context="8")) == []
    with pytest.raises(WrongUse, match="exists already"):
        fork(tmp_path, parent, parent.config, name="whole", weights_only=True)
    assert len(parent_run.checkpoints()) == 4


def test_other_text_keeps_the_tokenizer_that_was_learned(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("chars", tokenizer__kind="char", train__steps="7")
    run_training(run, tmp_path)
    other = tmp_path / "other.txt"
    other.write_text("the cat sat on a mat\nthe dog ran home\n" * 60)
    parent = open_parent(tmp_path, "chars")
    child = fork(tmp_path, parent, with_fields(parent.config, data__corpus=str(other), train__steps="11"))
    assert run_training(child, tmp_path).step == 11
    assert begun(child).step == 7
    assert (child.path / "tokenizer" / "tokenizer.json").read_bytes() == (
        run.path / "tokenizer" / "tokenizer.json"
    ).read_bytes()
    assert child.checkpoint().metrics["validation_loss"] > 0
    assert run_training(child, tmp_path, overrides=(("train.steps", "12"),)).step == 12


def test_a_damaged_parent_leaves_no_half_run(parent_run: Run, tmp_path: Path) -> None:
    parent = open_parent(tmp_path, "whole@14")
    (parent.checkpoint.path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        fork(tmp_path, parent, parent.config, name="half")
    tokenizer = parent_run.path / "tokenizer"
    tokenizer.rename(tokenizer.with_name("gone"))
    with pytest.raises(UserError, match="could not be copied"):
        fork(tmp_path, open_parent(tmp_path, "whole@21"), parent.config, name="half")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["whole"]


def test_a_fork_without_its_weights_does_not_start_from_nothing(parent_run: Run, tmp_path: Path) -> None:
    parent = open_parent(tmp_path, "whole@7")
    child = fork(tmp_path, parent, parent.config)
    remove_directory(child.checkpoint().path)
    with pytest.raises(UserError, match="lost the weights of whole@7"):
        run_training(child, tmp_path)
