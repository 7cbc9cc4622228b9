"""`train --nproc`, `submit` and `stop`, without starting ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from llm.errors import UserError, WrongUse
from llm.launch import LOG, Launch, explain_end, start_detached, to_shell, training_command
from llm.run import Run
from llm.run.parts import FILES
from workbench.cli import main
from workbench.commands.ranks import follow_ranks


def run_cli(home: Path, *words: str) -> int:
    return main(["--home", str(home), *words])


def test_one_process_needs_no_torchrun(trained_run: Run) -> None:
    command = training_command(trained_run, Path("/h"), Launch(), (("train.steps", "30"),))
    assert command[1:] == ["-m", "llm.train", str(trained_run.path), "--home", "/h", "--train.steps", "30"]


def test_several_machines_meet_at_an_endpoint(trained_run: Run) -> None:
    launch = Launch(nproc=8, nodes=2, endpoint="gpu1:29500", max_restarts=3)
    words = to_shell(training_command(trained_run, Path("/h"), launch, ())).split()
    assert words[0] == "torchrun"
    assert {"--rdzv-endpoint=gpu1:29500", "--nnodes=2", "--nproc-per-node=8", "--max-restarts=3"} <= set(words)
    assert f"--rdzv-id={trained_run.info()['id']}" in words
    assert launch.world_size == 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nproc": 0}, "--nproc and --nnodes must be 1 or more"),
        ({"nodes": 2}, "--nnodes needs --rdzv-endpoint HOST:PORT"),
        ({"max_restarts": -1}, "--max-restarts 0 or more"),
    ],
)
def test_a_wrong_launch_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        Launch(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("endpoint", ["no-such-host.invalid:29500", "127.0.0.1:port"])
def test_an_endpoint_that_is_no_address_makes_no_run(
    home: Path, tiny_preset: Path, capsys: pytest.CaptureFixture[str], endpoint: str
) -> None:
    words = ("train", str(tiny_preset), "--nnodes", "2", "--rdzv-endpoint", endpoint, "--train.device", "cpu")
    assert run_cli(home, *words) == 2
    assert f"--rdzv-endpoint {endpoint}: this is no address" in capsys.readouterr().err
    assert not (home / "runs").exists()


def test_a_batch_that_the_ranks_cannot_divide_makes_no_run(
    home: Path, tiny_preset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", str(tiny_preset), "--nproc", "3", "--train.total-batch-tokens", "1024", "--train.device", "cpu")
    assert run_cli(home, *words) == 2
    said = capsys.readouterr().err
    assert "1024 tokens cannot be divided evenly among 3 processes" in said
    assert "set train.total_batch_tokens to 1152, or use a number of processes that divides 8 (2 or 4)" in said
    assert not (home / "runs").exists()


def test_ranks_that_cannot_divide_the_batch_of_a_run_are_refused_before_any_is_started(
    trained_run: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained_run.path, home / "runs" / "own")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert run_cli(home, "resume", "own", "--nproc", "3", "--train.steps", "40") == 2
    assert "the 4 sequences per step this run started with cannot be divided evenly among 3" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def fake_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "sbatch"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_submit_writes_a_script_and_submits_it(
    home: Path, tiny_preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_sbatch(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; echo "4711;cluster"')
    words = ("--nodes", "2", "--gpus", "4", "--time", "12:00:00", "--partition", "gpu", "--name", "far", "--json")
    assert run_cli(home, "submit", str(tiny_preset), *words) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["job"] == "4711"
    script = Path(made["script"])
    assert (tmp_path / "asked").read_text() == f"--parsable {script}\n"
    lines = script.read_text().splitlines()
    wanted = ("nodes=2", "gpus-per-node=4", "time=12:00:00", "partition=gpu", "signal=TERM@120", "requeue")
    assert {f"#SBATCH --{option}" for option in wanted} <= set(lines)
    assert "--nnodes=2 --nproc-per-node=4" in script.read_text()
    assert f"-m llm.train {home / 'runs' / 'far'}" in lines[-1]
    assert os.system(f"bash -n {script}") == 0


def test_submit_without_sbatch_says_what_to_do(
    home: Path, tiny_preset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run_cli(home, "submit", str(tiny_preset), "--time", "30") == 0
    captured = capsys.readouterr()
    assert captured.out.strip().endswith("submit.sh")
    assert "submit it with: sbatch" in captured.err


def test_what_sbatch_refuses_is_reported(
    home: Path, tiny_preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_sbatch(tmp_path, monkeypatch, "echo 'invalid partition' >&2; exit 1")
    assert run_cli(home, "submit", str(tiny_preset), "--time", "30") == 1
    assert "invalid partition" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["tomorrow", "1:2:3", "12:00:00\n#SBATCH --x"])
def test_a_time_limit_that_slurm_does_not_know_is_refused(home: Path, tiny_preset: Path, limit: str) -> None:
    assert run_cli(home, "submit", str(tiny_preset), "--time", limit) == 2


def test_why_ranks_did_not_start_is_found_in_what_they_printed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    log = tmp_path / "process.log"
    log.write_text(
        "--- started yesterday\nrank 0: an old error.\n--- started now\nTraceback\nrank 1: 2 GPUs at most.\n"
    )
    assert explain_end(run, 2) == "2 GPUs at most."
    log.write_text("--- started now\n  raise RendezvousConnectionError(\n")
    assert "did not meet at the rendezvous" in explain_end(run, 2)
    log.write_text("--- started now\n====\n")
    assert explain_end(run, 2).endswith("has what its processes printed.")
    log.write_text("--- started now\nthe home is a file.\n")
    assert explain_end(run, 1) == "the home is a file."


def test_ranks_are_stopped_by_a_signal_where_no_command_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "commands.jsonl").mkdir()
    (tmp_path / LOG).touch()
    process = subprocess.Popen(["sleep", "60"])
    with pytest.raises(UserError, match="could not be trained"):
        follow_ranks(Run(tmp_path), Launch(nproc=2), process, lambda event: None, {"signal": signal.SIGINT})
    assert process.returncode == -signal.SIGTERM
    assert "commands.jsonl cannot be written (Is a directory)" in capsys.readouterr().err


def test_what_a_detached_process_prints_is_never_appended_to_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / LOG).symlink_to(outside)
    with pytest.raises(OSError):
        start_detached(["true"], Run(tmp_path))
    assert outside.read_text() == "precious"
    (tmp_path / LOG).unlink()
    assert start_detached(["echo", "rank 0: done."], Run(tmp_path)).wait() == 0
    assert explain_end(Run(tmp_path), 2) == "done."
    assert LOG in FILES, "a run of somebody else is refused with such a link"


def test_of_a_log_of_any_length_the_end_is_read(tmp_path: Path) -> None:
    with (tmp_path / LOG).open("wb") as log:
        log.truncate(1 << 33)
        log.seek(0, os.SEEK_END)
        log.write(b"--- started now\nrank 1: too many.\n")
    assert explain_end(Run(tmp_path), 2) == "too many."
