"""`fork` and `attach` as a person types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llm.run import Run


def workbench(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workbench", *words, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_fork(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    done = workbench(
        home, "fork", "tiny-1@10", "--name", "child", "--train.steps", "12", "--train.lr", "5e-3", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["name"], result["step"], result["status"]) == ("child", 12, "finished")
    assert "train.lr: 0.01 → 0.005" in done.stderr and "it goes on at step 10" in done.stderr
    assert Run.open(home, "child").info()["parent"] == "tiny-1@10"
    refused = workbench(home, "fork", "tiny-1", "--model.n-layer", "2", "--tokenizer.kind", "char")
    assert refused.returncode == 2 and refused.stdout == ""
    assert [line.split(":")[0] for line in refused.stderr.splitlines()] == [
        "tokenizer.kind",
        "model.n_layer",
        "train.steps",
    ]
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["child", "tiny-1"]
    attached = workbench(home, "attach", "chld")
    assert attached.returncode == 2 and "did you mean child?" in attached.stderr
    assert workbench(home, "attach", "child").returncode == 2, "there is no terminal here"
