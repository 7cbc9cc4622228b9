"""Runs that are damaged, or come from somebody else: what cannot be used is named, and nothing is built for it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.errors import UserError
from llm.events import Event, Started, Warned
from llm.files import sha256_of
from llm.run import Run, find_checkpoint
from llm.training.run import run_training
from llm.weights import load_model

from .conftest import MakeRun, create_run, write_corpus


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("trained")
    run = create_run(home, "theirs", write_corpus(home))
    assert run_training(run, home).status == "finished"
    return home


@pytest.fixture
def run(trained_home: Path, tmp_path: Path) -> Run:
    """A run that was stopped by its length, to be trained further: checkpoints 7, 14, 21 and 24."""
    shutil.copytree(trained_home, tmp_path, dirs_exist_ok=True)
    return Run.open(tmp_path, "theirs")


def resumed(run: Run, home: Path) -> list[Event]:
    events: list[Event] = []
    run_training(run, home, overrides=(("train.steps", "26"),), on_event=events.append)
    return events


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def settle(checkpoint: Path) -> None:
    """Make the checksums of a checkpoint right again, whatever its files hold now."""

    def describe(manifest: dict[str, Any]) -> None:
        for name in manifest["files"]:
            file = checkpoint / name
            manifest["files"][name] = {"size": file.stat().st_size, "sha256": sha256_of(file)}

    change_json(checkpoint / "manifest.json", describe)


def starts_at(events: list[Event]) -> int:
    return next(event.step for event in events if isinstance(event, Started))


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "step": lambda manifest: manifest.update(step="24"),
    "endless step": lambda manifest: manifest.update(step=float("inf")),
    "files": lambda manifest: manifest.update(files=[1]),
    "size": lambda manifest: manifest["files"]["state.json"].update(size=None),
    "metrics": lambda manifest: manifest.update(metrics={"validation_loss": "low"}),
    "outside": lambda manifest: manifest["files"].update({"../../../meta.json": {"size": 1, "sha256": "0"}}),
    "absolute": lambda manifest: manifest["files"].update({"/etc/passwd": {"size": 1, "sha256": "0"}}),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "cut", "gone", "nested"])
def test_a_damaged_manifest_is_named_and_the_checkpoint_before_is_used(run: Run, tmp_path: Path, damage: str) -> None:
    manifest = run.checkpoint().path / "manifest.json"
    if damage in DAMAGES:
        change_json(manifest, DAMAGES[damage])
    elif damage == "gone":
        manifest.unlink()
    else:
        manifest.write_bytes(b"[" * 100_000 if damage == "nested" else manifest.read_bytes()[:40])
    said: list[str] = []
    assert find_checkpoint(tmp_path, "theirs", said.append)[1].step == 21
    assert len(said) == 1 and said[0].startswith("skipping checkpoint 24: ") and "manifest.json" in said[0]
    with pytest.raises(UserError, match=r"manifest\.json"):
        run.checkpoint("24")
    events = resumed(run, tmp_path)
    warnings = [event for event in events if isinstance(event, Warned)]
    assert [warning.step for warning in warnings] == [24] and "manifest.json" in warnings[0].message
    assert starts_at(events) == 21


STATES: dict[str, Any] = {
    "step": "24",
    "batch_index": -1,
    "tokens_seen": None,
    "rows": 1e300,
    "rows that no memory holds": 10**15,
    "rows that are not divided": 10**15 + 37,
    "micro_batch": 5,
    "batch_index of no batch": 1 << 60,
    "flops_per_second": "fast",
    "metrics": [],
    "overrides": {"train.lr": 3},
    "overrides of no field": {"train.nothing": "3"},
    "plan": {"device": "cpu", "precision": "fp7", "threads": 1, "compiled": False},
    "spikes": {"seen": [["x"]], "due": 0},
    "best_validation_loss": "low",
    "loss_scale": {},
    "step that is another": 21,
}


@pytest.mark.parametrize("field", [*STATES])
def test_a_state_of_other_kinds_with_right_checksums_is_passed_over(run: Run, tmp_path: Path, field: str) -> None:
    newest = run.checkpoint().path
    change_json(newest / "state.json", lambda state: state.update({field.split()[0]: STATES[field]}))
    settle(newest)
    events = resumed(run, tmp_path)
    assert [event.step for event in events if isinstance(event, Warned)] == [24]
    assert starts_at(events) == 21


def test_a_state_asks_for_no_more_threads_than_the_machine_has(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.device.machine_processors", lambda: 1)
    newest = run.checkpoint().path
    change_json(newest / "state.json", lambda state: state["plan"].update(threads=4000))
    settle(newest)
    events = resumed(run, tmp_path)
    assert [event.threads for event in events if isinstance(event, Started)] == [1]
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "the run was to use 4,000 threads, and this machine has 1 processor: results differ by rounding."
    ]


def test_an_empty_state_with_right_checksums_is_passed_over(run: Run, tmp_path: Path) -> None:
    newest = run.checkpoint().path
    change_json(newest / "state.json", lambda state: state.clear())
    settle(newest)
    assert starts_at(resumed(run, tmp_path)) == 21


def test_optimizer_state_that_no_manifest_names_is_not_read(run: Run, tmp_path: Path) -> None:
    newest = run.checkpoint().path
    change_json(newest / "manifest.json", lambda manifest: manifest["files"].pop("optimizer.safetensors"))
    (newest / "optimizer.safetensors").write_bytes(b"not verified")
    assert starts_at(resumed(run, tmp_path)) == 24


def test_a_configuration_of_20000_layers_is_refused_before_anything_is_built(run: Run, tmp_path: Path) -> None:
    path = run.path / "run.toml"
    path.write_text(path.read_text().replace("n_layer = 1\n", "n_layer = 20000\n"))
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UserError, match=r"it holds [0-9,]+ numbers in 1 layers, not [0-9,]+ in 20,000"):
        resumed(run, tmp_path)
    with pytest.raises(UserError, match="in 20,000"):
        load_model(run, run.checkpoint())
    assert not (tmp_path / "data").exists(), "its text was not read for it"


def test_weights_of_another_shape_are_refused_before_the_text_is_read(run: Run, tmp_path: Path) -> None:
    for info in run.checkpoints():
        tensors = load_file(info.path / "model.safetensors")
        save_file(tensors | {"blocks.7.attn.q.weight": torch.zeros(3)}, info.path / "model.safetensors")
        settle(info.path)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UserError, match="does not fit this configuration"):
        resumed(run, tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_header_that_promises_more_than_the_file_has(run: Run) -> None:
    weights = run.checkpoint().path / "model.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    settle(weights.parent)
    with pytest.raises(UserError, match=r"describes 4,398,046,511,104 bytes of tensors, but there are 0"):
        load_model(run, run.checkpoint())


def test_files_of_any_size_are_not_read_for_nothing(run: Run, tmp_path: Path) -> None:
    newest = run.checkpoint().path
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        kept = (newest / name).read_bytes()
        described = (newest / "manifest.json").read_bytes()
        os.truncate(newest / name, 1 << 42)  # all but the beginning a hole: reading it would take an hour
        change_json(newest / "manifest.json", lambda manifest, name=name: manifest["files"][name].update(size=1 << 42))
        assert [event.step for event in resumed(run, tmp_path) if isinstance(event, Warned)] == [24]
        shutil.rmtree(run.checkpoint().path)
        (newest / name).write_bytes(kept)
        (newest / "manifest.json").write_bytes(described)


def test_another_text_is_not_tokenized_for_a_run_that_knew_its_own(
    make_run: MakeRun, tmp_path: Path, corpus: Path
) -> None:
    run = make_run("theirs")
    run_training(run, tmp_path)
    shutil.rmtree(tmp_path / "data")
    corpus.write_text("Something quite different. " * 500)
    with pytest.raises(UserError, match="has changed since it was trained"):
        resumed(run, tmp_path)
    assert not list((tmp_path / "data").glob("*/dataset.json"))


def test_deep_nesting_in_its_files_keeps_no_run_from_training(run: Run, tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b"\n" + b'{"type": "Warned", "message": ' + b"[" * 100_000 + b"\n"
    for name in ("events.jsonl", "commands.jsonl"):
        with (run.path / name).open("ab") as file:
            file.write(deep)
    commands = run.path / "commands.jsonl"

    def disturb(event: Event) -> None:
        with commands.open("ab") as file:
            file.write(deep)

    last = run_training(run, tmp_path, overrides=(("train.steps", "26"),), on_event=disturb)
    assert (last.status, last.step) == ("finished", 26)
    assert run.status().name == "finished"
