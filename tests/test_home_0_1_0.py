"""A home directory of version 0.1.0 still works: runs, resume, fork, sampling, evaluation, replay of a conversation,
presets, saved sampling parameters, settings and the queue.

`tests/fixtures/make_home.py` created `tests/fixtures/home-0.1.0` with that version. Do not create it again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm.config import load_preset
from llm.run import Run
from llm.run.checkpoints import verify
from tests.fixtures.make_home import cpu, digest
from workbench.app import WorkbenchApp
from workbench.cli import main

FIXTURE = Path(__file__).parent / "fixtures" / "home-0.1.0"
MODES = (".toml", ".json", ".jsonl", ".txt")


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that tests only read."""
    return Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("shared") / "home"))


@pytest.fixture
def old_home(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "home"))


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The JSON output of a command."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def last_weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint("last").path / "model.safetensors")


def test_the_fixture_is_small_and_has_no_local_paths() -> None:
    files = [path for path in FIXTURE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 400_000
    for path in files:
        if path.suffix in MODES:
            text = path.read_text(encoding="utf-8")
            assert not any(place in text for place in ("/home/", "/tmp/", "/root", "/work", "/Users/")), path


def test_runs_and_their_checkpoints_are_listed(shared_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ("--home", str(shared_home))
    listed = {run["name"]: run for run in answer(capsys, "runs", *home)}
    assert {name: run["status"] for name, run in listed.items()} == {
        "done": "finished",
        "branch": "finished",
        "stopped": "stopped",
        "waiting": "new",
    }
    assert Run.open(shared_home, "branch").info()["parent"] == "done@10"
    for name, run in listed.items():
        steps = [info.step for info in Run.open(shared_home, name).checkpoints()]
        assert steps == {"done": [10, 20], "branch": [10, 20]}.get(name, [10, run["step"]] if run["step"] else [])
        for info in Run.open(shared_home, name).checkpoints():
            verify(info)


def test_the_stopped_run_ends_with_the_same_weights(old_home: Path, tmp_path: Path) -> None:
    """Two resumed copies are equal; they equal the weights of 0.1.0 exactly on the same kind of CPU, else closely."""
    again = Path(shutil.copytree(old_home, tmp_path / "again"))
    for home in (old_home, again):
        assert main(["resume", "stopped", "--sample.every", "0", "--home", str(home)]) == 0
    run = Run.open(old_home, "stopped")
    assert run.status().name == "finished" and run.checkpoint("last").step == 40
    here = run.checkpoint("last").path / "model.safetensors"
    assert digest(here) == digest(Run.open(again, "stopped").checkpoint("last").path / "model.safetensors")
    made = json.loads((FIXTURE / "expected" / "made.json").read_text())
    if made["on"] == cpu():
        assert digest(here) == made["sha256"]
    then, now = load_file(FIXTURE / "expected" / "model.safetensors"), last_weights(run)
    assert then.keys() == now.keys()
    for name in then:
        torch.testing.assert_close(now[name], then[name], rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_extended_and_a_queued_one_is_trained(old_home: Path) -> None:
    home = ("--home", str(old_home))
    assert main(["resume", "done", "--train.steps", "24", *home]) == 0
    assert Run.open(old_home, "done").checkpoint("last").step == 24
    assert main(["resume", "waiting", "--sample.every", "0", *home]) == 0
    assert Run.open(old_home, "waiting").status().name == "finished"


def test_a_fork(old_home: Path) -> None:
    assert main(["fork", "stopped@10", "--name", "new", "--train.steps", "12", "--home", str(old_home)]) == 0
    assert Run.open(old_home, "new").checkpoint("last").step == 12


def test_evaluating(shared_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("done", "branch", "stopped@10"):
        found = answer(capsys, "eval", name, "--home", str(shared_home))
        logged = {
            event.step: event
            for event in Run.open(shared_home, name.partition("@")[0]).events()
            if hasattr(event, "bits_per_byte")
        }
        assert found["validation_loss"] == pytest.approx(logged[found["step"]].validation_loss, rel=1e-4)


def test_sampling_gives_the_reply_of_the_conversation(shared_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = exchanges(shared_home)[0]
    found = answer(capsys, "sample", first["model"], "--prompt", first["context"], "--home", str(shared_home))
    assert found["samples"][0]["text"] == first["reply"]


def exchanges(home: Path) -> list[dict[str, Any]]:
    """The exchanges in the file of the only conversation."""
    (file,) = (home / "transcripts").glob("*.jsonl")
    return [record for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()) if "number" in record]


def test_presets(shared_home: Path) -> None:
    own, base = load_preset("own", shared_home, []), load_preset("base", shared_home, [])
    assert (base.model.d_model, base.tokenizer.kind, base.decode.top_k) == (8, "char", 20)
    assert (own.model.d_model, own.model.n_layer, own.model.norm, own.model.mlp) == (8, 2, "layernorm", "relu2")
    assert (own.optim.kind, own.optim.matrix_lr, own.schedule.kind, own.schedule.lr_min) == (
        "muon",
        0.01,
        "cosine",
        1e-4,
    )
    assert (own.data.order, own.data.stride, own.data.boundary, own.tokenizer.vocab_size) == (
        "epoch",
        24,
        "before",
        264,
    )
    assert own.train.kernels == "reference", "train.attention in the file"
    assert (own.train.on_spike, own.train.max_bad_steps, own.checkpoint.keep) == ("skip", 3, 2)
    assert (own.decode.min_p, own.decode.repetition_penalty, own.decode.stop) == (0.05, 1.1, ("\n\n",))


async def test_the_app_opens_it(old_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, key bindings, the queue, replay of a conversation, and saved sampling parameters."""
    from tests.workbench.waiting import notifications, record_notifications, shown, until

    record_notifications(monkeypatch)
    app = WorkbenchApp(old_home, open="done@20")
    async with app.run_test(size=(140, 45)) as pilot:
        await until(pilot, lambda: app.current_mode == "chat" and "done@20" in shown(app.screen))
        assert app.theme == "terminal-light" and app.settings.smoothing == 0.5
        assert dict(app.settings.keys) == {"train.save": "W"}
        assert app.queue.names() == ["waiting"]
        assert any("1 run is in the queue" in text for text in notifications(app))
        await pilot.press("f8")
        await until(pilot, lambda: "calm" in shown(app.screen) and "min p 0.05" in shown(app.screen))
        await pilot.press("escape", "f3")
        await until(pilot, lambda: "One day" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: exchanges(old_home)[1]["reply"].split()[0] in shown(app.screen))
        await pilot.press("R")
        await until(pilot, lambda: "tokens are identical" in shown(app.screen), 120)
