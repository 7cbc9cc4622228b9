"""CORE during training and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llm.config import with_overrides
from llm.errors import UserError
from llm.events import CoreEvaluated, Event, Finished, Progress, from_record, to_line
from llm.run import Command, Run
from llm.training.commands import CommandQueue
from llm.training.run import run_training
from tests.conftest import tiny_config
from tests.core.bundles_for_tests import write_bundle
from workbench.cli import main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("core") / "bundle")


def trained(home: Path, name: str, corpus: Path, fields: dict[str, str]) -> Run:
    config = with_overrides(tiny_config(corpus), list(({"model.dropout": "0.1"} | fields).items()))
    run = Run.create(home, name, config)
    run_training(run, home)
    return run


def weights(run: Run) -> dict[str, list[float]]:
    return {
        name: tensor.tolist() for name, tensor in load_file(run.checkpoints()[-1].path / "model.safetensors").items()
    }


@pytest.mark.parametrize(("every", "steps"), [("7", [7, 14, 20]), ("10", [10, 20])])
def test_training_is_the_same_bit_for_bit(home: Path, corpus: Path, bundle: Path, every: str, steps: list[int]) -> None:
    core = {"evaluate.core_every": every, "evaluate.core_path": str(bundle), "evaluate.core_examples": "2"}
    with_core, without = trained(home, "with", corpus, core), trained(home, "without", corpus, {})
    events = [event for event in with_core.events() if isinstance(event, CoreEvaluated)]
    assert [event.step for event in events] == steps  # when due, and at the end, once
    assert set(events[0].tasks) == set(events[0].centred) == {"colours", "pronouns", "last_words"}
    assert events[0].core_metric == pytest.approx(sum(events[0].centred.values()) / 3)
    assert weights(with_core) == weights(without)


def test_a_missing_bundle_is_an_error_before_training(home: Path, corpus: Path) -> None:
    with pytest.raises(UserError, match="llm-workbench data download core"):
        trained(home, "early", corpus, {"evaluate.core_every": "5"})
    assert not (home / "data").exists()


def test_a_stop_ends_a_measurement(home: Path, corpus: Path, bundle: Path) -> None:
    fields = {"evaluate.core_every": "5", "evaluate.core_path": str(bundle)}
    run = Run.create(home, "stopped", with_overrides(tiny_config(corpus), list(fields.items())))
    commands = CommandQueue()

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage.startswith("CORE"):
            commands.inject(Command("stop", "1", {}))

    finished = run_training(run, home, commands=commands, on_event=stop)
    assert (finished.status, finished.step) == ("stopped", 5)
    assert not [event for event in run.events() if isinstance(event, CoreEvaluated)]
    assert [info.step for info in run.checkpoints()] == [5]


def test_the_event_round_trips() -> None:
    event = CoreEvaluated(step=3, core_metric=0.1, tasks={"a": 0.5}, centred={"a": -0.1}, command_id="x")
    assert from_record(json.loads(to_line(event))) == event
    assert from_record(json.loads(to_line(Finished(step=1, status="finished")))) is not None


def test_eval_core(trained_run: Run, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(trained_run.path.parent.parent)
    assert main(["--home", home, "eval", "tiny-1", "--core", str(bundle), "--device", "cpu", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["name"], record["step"], record["questions"]) == ("tiny-1", 20, 9)
    assert record["core_metric"] == pytest.approx(sum(record["centred"].values()) / 3)
    assert main(["--home", home, "eval", "tiny-1", "--core", str(bundle), "--examples", "1", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "3 questions" in out
    assert "last_words" in out
    assert "CORE" in out


def test_eval_core_without_a_bundle(trained_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(trained_run.path.parent.parent), "eval", "tiny-1", "--core"]) == 1
    assert "llm-workbench data download core" in capsys.readouterr().err
