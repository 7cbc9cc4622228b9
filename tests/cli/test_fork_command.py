"""`fork` and `attach` as a person types them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from llm.events import StepLogged
from llm.run import Run
from llm.run.log import events_of
from tests.cli.test_cli_real import Shell
from tests.forking import complete, run_workbench


def workbench(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return complete(run_workbench, *words, "--home", str(home))


def test_fork(trained_run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    done = workbench(
        home, "fork", "tiny-1@10", "--name", "child", "--train.steps", "12", "--train.lr", "5e-3", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["name"], result["step"], result["status"]) == ("child", 12, "finished")
    assert "train.lr: 0.01 → 0.005" in done.stderr and "continues at step 10" in done.stderr
    assert (
        "from 5.78e-03, where the run stands, to " in done.stderr and "--keep-rate keeps the last rate" in done.stderr
    )
    assert Run.open(home, "child").info()["parent"] == "tiny-1@10"
    shell = Shell(home, capsys)
    assert shell("fork", "tiny-1", "--model.n-layer", "2", "--tokenizer.kind", "char", status=2) == ""
    assert [line.split(":")[0] for line in shell.said.splitlines()] == [
        "tokenizer.kind",
        "model.n_layer",
        "train.steps",
    ]
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["child", "tiny-1"]
    assert workbench(home, "fork", "tiny-1", "--train.steps", "30", "--keep-rate").returncode == 0
    child = Run.open(home, "tiny-1-fork-1")
    last = next(events_of((child.path / "events.jsonl").read_bytes(), StepLogged))
    assert last.step == 30 and last.lr == pytest.approx(6.16e-5, rel=1e-2)
    shell("attach", "chld", status=2)
    assert "did you mean child?" in shell.said
    shell("attach", "child", status=2)
    assert "needs a terminal" in shell.said


@pytest.mark.parametrize("command", ["fork", "sft"])
def test_a_damaged_manifest_is_not_passed_over_in_silence(
    trained_run: Run, home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    (home / "runs" / "tiny-1" / "checkpoints" / "step-00000020" / "manifest.json").write_text("{")
    shell = Shell(home, capsys)
    shell(command, "tiny-1", "--model.n-layer", "2", status=2)
    assert shell.said.startswith("skipping checkpoint 20: ") and "manifest.json" in shell.said
