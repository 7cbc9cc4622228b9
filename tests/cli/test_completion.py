"""Completion in real shells, and what it is made of."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
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
    assert words(capsys, home, "data", "cl") == ["clean"]
    assert words(capsys, home, "bench", "dec") == ["decode"]
    assert words(capsys, home, "train", "quickstart", "--train.bat") == ["--train.batch-size"]
    assert words(capsys, home, "train", "quickstart", "--model.bias", "t") == ["true"]
    assert words(capsys, home, "train", "quickstart", "--model.position", "le") == ["learned"]
    assert words(capsys, home, "sample", "tiny-1", "--min-p") == ["--min-p"]
    assert words(capsys, home, "sample", "tiny-1", "--prompt-file", "") == []
    assert words(capsys, home, "nonsense", "") == []


@pytest.fixture
def shell_environment(trained_run: Run, tmp_path: Path) -> dict[str, str]:
    """An environment with the program on its path, and a home with the run tiny-1."""
    program = tmp_path / "llm-workbench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m workbench "$@"\n')
    program.chmod(0o755)
    home = str(trained_run.path.parent.parent)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    return {**os.environ, **paths, "LLM_WORKBENCH_HOME": home, "TERM": "dumb"}


def test_bash_asks_the_program(shell_environment: dict[str, str]) -> None:
    def complete(line: str) -> list[str]:
        command = ["bash", "-c", DRIVER, "bash", line]
        done = subprocess.run(command, env=shell_environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("llm-workbench resume ti") == ["tiny-1"]
    assert complete("llm-workbench eval tiny-1@1") == ["10"]  # bash replaces what follows the @


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_asks_the_program(shell_environment: dict[str, str], tmp_path: Path) -> None:
    lines = ["tra", "resume ", "train cs336-a", "eval tiny-1@1", "train quickstart --train.bat", "import som"]
    (tmp_path / "some-model").mkdir()
    asked = "; ".join(f"complete -C 'llm-workbench {line}'" for line in lines)
    done = subprocess.run(
        ["fish", "-N", "-c", f"llm-workbench completion fish | source; {asked}"],
        env=shell_environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert found == ["train", "tiny-1", "cs336-assignment", "tiny-1@10", "--train.batch-size", "some-model/"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("resume ti", "resume tiny-1 "),
        ("eval tiny-1@b", "eval tiny-1@best "),
        ("train quickstart --train.bat", "train quickstart --train.batch-size "),
        ("import some-m", "import some-model/"),
    ],
)
def test_zsh_asks_the_program(line: str, completed: str, shell_environment: dict[str, str], tmp_path: Path) -> None:
    """What the Tab key writes, in a pseudo-terminal."""
    (tmp_path / "some-model").mkdir()
    terminal, theirs = pty.openpty()
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"], env=shell_environment, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    setup = 'autoload -Uz compinit; compinit -u -D; eval "$(llm-workbench completion zsh)"; echo "rea""dy"\n'
    try:
        os.write(terminal, setup.encode())
        read_until(terminal, b"ready")
        os.write(terminal, f"llm-workbench {line}\t".encode())
        read_until(terminal, f"llm-workbench {completed}".encode())
    finally:
        zsh.kill()
        zsh.wait()
        os.close(terminal)
        os.close(theirs)


def read_until(terminal: int, wanted: bytes) -> None:
    """Read what a terminal shows until it holds `wanted`."""
    shown = b""
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, shown
        shown += os.read(terminal, 1 << 16)


def test_an_unknown_shell_is_wrong_use() -> None:
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
