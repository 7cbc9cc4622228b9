"""Completion in a real bash, and what it is made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm.run import Run
from workbench import cli

DRIVER = """
eval "$(llm-workbench completion bash)"
COMP_LINE="$1" COMP_POINT=${#1}
_llm_workbench
printf '%s\\n' "${COMPREPLY[@]}"
"""


def words(capsys: pytest.CaptureFixture[str], home: Path, *given: str) -> list[str]:
    capsys.readouterr()
    assert cli.main(["completion", "words", "--home", str(home), *given]) == 0
    return [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()]


def test_every_word_of_a_command_line(trained_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    home = trained_run.path.parent.parent
    assert words(capsys, home, "sam") == ["sample"]
    assert "quickstart" in words(capsys, home, "train", "")
    assert words(capsys, home, "train", "cs336-a") == ["cs336-assignment"]
    assert words(capsys, home, "resume", "") == ["tiny-1"]
    assert words(capsys, home, "sample", "tiny-1@") == ["tiny-1@last", "tiny-1@best", "tiny-1@10", "tiny-1@20"]
    assert words(capsys, home, "runs", "ex") == ["export"]
    assert words(capsys, home, "runs", "export", "t") == ["tiny-1"]
    assert words(capsys, home, "bench", "dec") == ["decode"]
    assert words(capsys, home, "train", "quickstart", "--train.bat") == ["--train.batch-size"]
    assert words(capsys, home, "train", "quickstart", "--model.bias", "t") == ["true"]
    assert words(capsys, home, "train", "quickstart", "--model.position", "le") == ["learned"]
    assert words(capsys, home, "sample", "tiny-1", "--min-p") == ["--min-p"]
    assert words(capsys, home, "sample", "tiny-1", "--prompt-file", "") == []
    assert words(capsys, home, "nonsense", "") == []


def test_bash_asks_the_program(trained_run: Run, tmp_path: Path) -> None:
    program = tmp_path / "llm-workbench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m workbench "$@"\n')
    program.chmod(0o755)
    home = trained_run.path.parent.parent
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LLM_WORKBENCH_HOME": str(home)}
    root = str(Path(__file__).parents[2])

    def complete(line: str) -> list[str]:
        command = ["bash", "-c", DRIVER, "bash", line]
        done = subprocess.run(
            command, env=environment | {"PYTHONPATH": root}, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert complete("llm-workbench resume ti") == ["tiny-1"]
    assert complete("llm-workbench eval tiny-1@1") == ["10"]  # bash replaces what follows the @


def test_scripts_for_other_shells_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("zsh", "fish"):
        assert cli.main(["completion", shell]) == 0
        assert "completion words" in capsys.readouterr().out
    assert cli.main(["completion", "tcsh"]) == 2


def test_version_as_json_says_what_a_bug_report_needs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--home", str(home), "--version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert found["python"] == sys.version
    assert {"platform", "processor", "cores", "memory", "disk_free_bytes", "terminal", "environment"} <= found.keys()
    assert cli.main(["--version", "--yaml"]) == 2
    assert "--yaml" in capsys.readouterr().err


def test_neither_loads_torch() -> None:
    code = "import sys; from workbench import cli; cli.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for words in (["--version", "--json"], ["completion", "words", "train", ""]):
        subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
