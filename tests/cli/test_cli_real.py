"""The commands on a real run: train, talk, measure, list, go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm.config import DecodeConfig
from llm.events import Event, Finished, Progress, Started, StepLogged
from llm.run import Run
from tests.forking import NOTHING, ForkedProgram, run_workbench
from workbench import cli
from workbench.commands import progress
from workbench.commands.progress import PlainReporter

METRICS = ("validation_loss", "perplexity", "bits_per_byte")


class Shell:
    """Runs command lines in this process; keeps what they printed."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.capsys = capsys
        self.said = ""

    def __call__(self, *words: str, status: int = 0) -> str:
        self.capsys.readouterr()
        ended = cli.main([*words, "--home", str(self.home)])
        printed = self.capsys.readouterr()
        self.said = printed.err
        assert ended == status, printed.err
        return printed.out

    def data(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def shell(trained_run: Run, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell where the tiny run is at home. Nothing here may change it."""
    return Shell(trained_run.path.parent.parent, capsys)


@pytest.fixture
def own_shell(trained_run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell with a copy of the tiny run, to be changed at will."""
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    return Shell(home, capsys)


def test_train_prints_one_object(tiny_preset: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(home, capsys)
    result = shell.data("train", str(tiny_preset), "--train.steps", "7", "--optim.beta2=0.9")
    assert (result["name"], result["path"]) == ("tiny-1", str(home / "runs" / "tiny-1"))
    assert (result["step"], result["status"]) == (7, "finished")
    assert result["tokens_seen"] == 7 * 4 * 32
    assert all(isinstance(result[name], float) for name in ("loss", *METRICS))
    assert Run.open(home, "tiny-1").config().optim.beta2 == 0.9
    assert "validation loss" in shell.said
    assert shell("train", str(tiny_preset), "--train.steps", "1") == ""
    assert Run.open(home, "tiny-2").status().name == "finished"
    shell("train", str(tiny_preset), "--name", "tiny-2", status=2)
    assert "exists already" in shell.said


@pytest.fixture
def fitted(home: Path, capsys: pytest.CaptureFixture[str], corpus: Path) -> Shell:
    """A shell with a run that was made from a preset of a true size, and not started."""
    shell = Shell(home, capsys)
    fields = ("--data.corpus", str(corpus), "--train.steps", "400", "--train.device", "cpu")
    made = shell("train", "cs336-assignment", "--fit", "0.05", "--no-start", "--name", "small", *fields).strip()
    assert made == str(home / "runs" / "small")
    assert "to fit: --model.n_layer 2" in shell.said
    assert "llm-workbench resume small (--nproc N: on N GPUs of this machine)" in shell.said
    return shell


@pytest.mark.slow
def test_a_run_made_to_fit_is_trained_on_two_ranks(fitted: Shell) -> None:
    """From a preset of a true size to two ranks, as a person types it."""
    result = fitted.data("resume", "small", "--nproc", "2", "--train.steps", "3")
    run = Run.open(fitted.home, "small")
    assert result["status"] == run.status().name == "finished" and run.checkpoint().step == 3
    started = next(event for event in run.events() if isinstance(event, Started))
    assert started.world_size == 2


def test_the_command_of_two_ranks_is_printed_for_a_run_made_to_fit(fitted: Shell) -> None:
    shell, run = fitted, Run.open(fitted.home, "small")
    assert (run.status().name, run.config().model.n_layer, run.config().optim.eps_inside) == ("new", 2, True)
    shell("train", "cs336-assignment", "--fit", "0", status=2)
    assert "--fit must be a number of minutes above 0" in shell.said
    printed = shell("resume", "small", "--nproc", "2", "--train.steps", "6", "--print-command")
    assert printed.startswith("torchrun --standalone --nnodes=1 --nproc-per-node=2 --shutdown-timeout=600 -m llm.train")
    shell("stop", "small", status=2)
    assert "small is not in training" in shell.said


def test_sample_prints_the_continuation_alone_and_again_the_same(shell: Shell) -> None:
    words = ("sample", "tiny-1", "--prompt", "Ada saw", "--seed", "3", "--max-tokens", "40")
    first = shell(*words)
    assert shell.said == ""
    assert shell(*words) == first
    assert not first.startswith("Ada saw")
    assert 1 <= len(first) <= 40
    described = shell.data(*words)
    assert described["samples"][0]["text"] == first
    assert (described["run"], described["step"], described["tokens"]) == ("tiny-1", 20, 40)
    assert described["decode"]["seed"] == 3
    assert shell("sample", "tiny-1@20", *words[2:]) == first
    assert shell(*words[:-3], "4", *words[-2:]) != first


def test_sampling_parameters_reach_the_engine(shell: Shell) -> None:
    words = ("sample", "tiny-1@10", "--prompt", "Chen", "--max-tokens", "12")
    greedy = shell(*words, "--greedy")
    assert shell(*words, "--top-k", "1", "--seed", "9") == greedy
    assert shell(*words, "--temperature", "0", "--num-samples", "2").rstrip("\n").split("\n---\n") == [greedy] * 2
    several = shell.data(*words, "--num-samples", "3", "--temperature", "2")
    assert len({sample["text"] for sample in several["samples"]}) == 3
    assert several["tokens"] == 36
    shell(*words, "--top-p", "2", "--temperature", "hot", status=2)
    assert shell.said.splitlines() == [
        'decode.temperature: must be a number, not "hot"',
        "decode.top_p: must be at most 1, not 2",
    ]


def test_prompts_from_a_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Béla saw")
    words = ("--max-tokens", "9", "--seed", "1")
    typed = shell("sample", "tiny-1", "--prompt", "Béla saw", *words)
    assert shell("sample", "tiny-1", "--prompt", f"FILE:{tmp_path / 'prompt.txt'}", *words) == typed
    shell("sample", "tiny-1", "--prompt", "FILE:/no/such", status=2)
    assert "/no/such" in shell.said


def test_every_sampling_parameter_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    helped = capsys.readouterr().out
    missing = [name for name in DecodeConfig.__dataclass_fields__ if f"--{name.replace('_', '-')} " not in helped]
    assert missing == []


def test_eval_agrees_with_training(shell: Shell, trained_run: Run) -> None:
    result = shell.data("eval", "tiny-1")
    saved = trained_run.checkpoints()[-1].metrics
    assert result["name"] == "tiny-1"
    assert result["step"] == 20
    for name in METRICS:
        assert result[name] == pytest.approx(saved[name], rel=1e-6)
    everything = shell.data("eval", "tiny-1@10", "--batches", "0")
    assert everything["tokens"] > result["tokens"]
    assert "bits per byte" in shell("eval", "tiny-1@best")
    assert "warning" not in shell.said


def test_eval_on_another_corpus(own_shell: Shell, trained_run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("".join(f"zq{n * 7919 % 1000}xj " for n in range(3000)))
    loss = own_shell.data("eval", "tiny-1")["validation_loss"]
    assert own_shell.data("eval", "tiny-1", "--corpus", str(other))["validation_loss"] > loss + 0.5
    assert f"validation tokens of {other}" in own_shell("eval", "tiny-1", "--corpus", str(other))
    assert "warning" not in own_shell.said
    own = own_shell.data("eval", "tiny-1", "--corpus", trained_run.config().data.corpus)
    assert own["validation_loss"] == pytest.approx(loss, rel=1e-6)
    own_shell("eval", "tiny-1", "--corpus", "x", "--answers", status=2)


def test_eval_says_when_the_text_has_changed(own_shell: Shell, corpus: Path, tmp_path: Path) -> None:
    run_file = own_shell.home / "runs" / "tiny-1" / "run.toml"
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text(encoding="utf-8").replace("moon", "star"), encoding="utf-8")
    run_file.write_text(run_file.read_text().replace(str(corpus), str(other)))
    own_shell("eval", "tiny-1")
    assert "has changed since training" in own_shell.said


def test_runs_and_checkpoints(shell: Shell, trained_run: Run) -> None:
    (run,) = shell.data("runs")
    assert (run["name"], run["status"], run["step"], run["checkpoints"]) == ("tiny-1", "finished", 20, [10, 20])
    assert all(isinstance(run[name], float) for name in ("loss", *METRICS))
    assert "tiny-1  finished  20" in shell("runs")
    kept = shell.data("runs", "tiny-1")["checkpoints"]
    assert [(info["step"], info["last"]) for info in kept] == [(10, False), (20, True)]
    assert "last" in shell("runs", "tiny-1")
    shell("runs", "tny-1", status=2)
    assert "did you mean tiny-1?" in shell.said
    shell("sample", "tiny-1@11", status=2)
    assert "steps 10, 20" in shell.said


def test_a_run_stands_where_it_was_stopped_not_where_it_was_logged_last(own_shell: Shell) -> None:
    tiny = Run.open(own_shell.home, "tiny-1")
    logged = [event for event in tiny.events() if isinstance(event, StepLogged)][-1]
    log = tiny.log()
    log.append(replace(logged, step=24, loss=2.0))
    log.append(Finished(step=27, status="stopped"))
    log.close()
    (run,) = own_shell.data("runs")
    assert (run["step"], run["loss"], run["status"]) == (27, 2.0, "stopped")
    shutil.rmtree(own_shell.home / "runs" / "tiny-1" / "checkpoints")
    own_shell("runs", "tiny-1")
    assert own_shell.said == "tiny-1 has no checkpoint yet.\n"


def test_a_damaged_run_is_listed_with_its_problem(own_shell: Shell) -> None:
    (own_shell.home / "runs" / "tiny-1" / "run.toml").write_text("[broken")
    (run,) = own_shell.data("runs")
    assert run["status"] == "unreadable"
    assert "run.toml cannot be read" in run["problem"]
    assert "unreadable" in own_shell("runs")


@pytest.mark.parametrize("name", ["meta.json", "events.jsonl"])
def test_a_run_with_a_file_of_another_kind_is_listed_with_its_problem(own_shell: Shell, name: str) -> None:
    path = own_shell.home / "runs" / "tiny-1" / name
    path.unlink(missing_ok=True)
    if name == "meta.json":
        path.write_text("[1]")
    else:
        path.mkdir()
    (run,) = own_shell.data("runs")
    assert run["status"] == "unreadable" and name in run["problem"]
    assert "unreadable" in own_shell("runs")


def test_no_runs_yet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(home, capsys)
    assert shell("runs") == ""
    assert "llm-workbench train quickstart" in shell.said
    assert shell.data("runs") == []


def test_presets(shell: Shell) -> None:
    names = [preset["name"] for preset in shell.data("presets")]
    assert names[0] == "quickstart"
    assert "quickstart" in shell("presets")
    assert shell.data("presets", "quickstart")["model"]["n_layer"] == 2
    assert "[train]" in shell("presets", "quickstart")


def test_a_preset_in_full_starts_with_its_notes_and_is_a_preset_itself(shell: Shell, tmp_path: Path) -> None:
    written = shell("presets", "gpt2-124m")
    assert written.startswith('# "Building a large model from scratch')
    assert "\n# - a checkpoint is saved every 500" in written
    file = tmp_path / "again.toml"
    file.write_text(written)
    again, first = shell.data("presets", str(file)), shell.data("presets", "gpt2-124m")
    assert again["train"] == first["train"] and again["model"] == first["model"]


def test_a_finished_run_is_extended(own_shell: Shell) -> None:
    own_shell("resume", "tiny-1", status=2)
    assert "extend it with --train.steps N" in own_shell.said
    own_shell("resume", "tiny-1", "--train.steps", "20", status=2)
    assert "step 20; extend it with --train.steps N, N > 20" in own_shell.said
    own_shell("resume", "tiny-1", "--model.n-layer", "2", status=2)
    assert "model.n_layer: cannot change" in own_shell.said
    own_shell("resume", "tiny-1", "--train.steps", "25", "--model.n-layer", "2", status=2)
    assert "model.n_layer: cannot change" in own_shell.said
    result = own_shell.data("resume", "tiny-1", "--train.steps", "25")
    assert (result["step"], result["status"], result["total_steps"]) == (25, "finished", 25)
    assert own_shell.data("runs")[0]["checkpoints"][-1] == 25


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first(number: signal.Signals, status: int, tiny_preset: Path, home: Path) -> None:
    words = ["train", str(tiny_preset), "--train.steps", "1000000", "--checkpoint.every", "0", "--evaluate.every", "0"]
    process = ForkedProgram(
        run_workbench,
        *(*words, "--json", "--home", str(home)),
        streams=(NOTHING, home / "output.txt", home / "errors.txt"),
        environment=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    log, deadline = home / "runs" / "tiny-1" / "events.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 3,' in log.read_text()) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    result = json.loads(out)
    assert result["status"] == "stopped"
    assert [info.step for info in Run.open(home, "tiny-1").checkpoints()] == [result["step"]]


def test_a_reader_of_the_narration_may_leave(tiny_preset: Path, home: Path) -> None:
    command = [sys.executable, "-m", "workbench", "train", str(tiny_preset), "--home", str(home)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(120) == 0
    assert Run.open(home, "tiny-1").status().name == "finished"


def test_an_interrupt_while_preparing_leaves_nothing(
    tiny_preset: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(PlainReporter):
        def report(self, event: Event) -> None:
            if isinstance(event, Progress):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress, "progress_reporter", Interrupting)
    shell = Shell(home, capsys)
    shell("train", str(tiny_preset), status=130)
    assert "nothing to save" in shell.said
    assert list((home / "runs").iterdir()) == []


def test_data_lists_and_prepares(own_shell: Shell, tiny_preset: Path, corpus: Path) -> None:
    names = [record["name"] for record in own_shell.data("data")]
    assert names[:2] == ["stories", "pylib"]
    prepared = own_shell.data("data", str(tiny_preset))
    assert prepared["name"] in names, "the run has prepared it already"
    assert prepared["bytes_per_token"] == pytest.approx(1.0)
    assert prepared["train_tokens"] + prepared["validation_tokens"] == corpus.stat().st_size
    assert (prepared["tokenizer"], prepared["vocab_size"]) == ("byte", 257)
    other = own_shell.data("data", str(tiny_preset), "--tokenizer.kind", "char")
    assert other["name"] != prepared["name"]
    printed = own_shell("data", str(tiny_preset))
    assert "per token" in printed
    assert f"total       {corpus.stat().st_size:,} tokens" in printed
    index = own_shell.home / "data" / other["name"] / "dataset.json"
    index.write_text("{")
    assert "damaged" in own_shell("data")


def test_tokenizers(own_shell: Shell, tiny_preset: Path, tmp_path: Path) -> None:
    encoded = own_shell.data("tokenizer", "encode", "tiny-1", "Béla")
    assert encoded["ids"] == list("Béla".encode())
    assert encoded["tokens"] == ["B", "\\xc3", "\\xa9", "l", "a"]
    no_text = own_shell.data("tokenizer", "encode", "tiny-1", "a\udcff")  # what Python makes of a byte that is no text
    assert no_text["bytes"] == len("a\ufffd".encode())
    target = str(tmp_path / "made")
    fields = ("--tokenizer.kind", "bpe", "--tokenizer.vocab-size", "300")
    made = own_shell.data("tokenizer", "train", str(tiny_preset), "--output", target, *fields)
    assert (made["kind"], made["vocab_size"]) == ("bpe", 300)
    assert own_shell.data("tokenizer", "show", target) == made
    assert "vocabulary      300" in own_shell("tokenizer", "show", target)
    assert len(own_shell.data("tokenizer", "encode", target, "Ada saw the moon")["ids"]) < 16
    own_shell("tokenizer", "train", str(tiny_preset), "--output", target, status=2)
    assert "exists already" in own_shell.said


def test_a_pipe_gets_the_faithful_bytes(shell: Shell) -> None:
    words = ("sample", "tiny-1", "--temperature", "3", "--max-tokens", "60")
    command = [sys.executable, "-m", "workbench", *words, "--home", str(shell.home)]
    plain = subprocess.run(command, capture_output=True, check=True, env=os.environ | {"LC_ALL": "C"})
    assert plain.stdout.decode() == shell.data(*words)["samples"][0]["text"]
    assert any(byte < 32 and byte != 10 for byte in plain.stdout), "hot enough to hold control bytes"
