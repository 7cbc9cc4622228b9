"""The files of a home and of its runs: for each, whole examples and everything that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.config import RunConfig, list_presets, load_preset, to_toml, with_overrides
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.prepare import find_tokenized_dataset
from llm.errors import ConfigError
from llm.events import Started
from llm.files import sha256_of
from llm.run import Command, CommandTail, Run
from llm.run.fork import open_parent
from llm.run.log import last_event_of, last_events, read_events
from llm.training.batch_plan import resolve_batch_plan
from llm.training.commands import CommandQueue, set_live_field
from llm.training.distributed import Ranks
from llm.training.resume_checks import config_for_resume, newest_state
from llm.training.run import run_training
from llm.training.setup import check_checkpoints, new_state, resolve_plan, restore_newest
from llm.weights import load_model
from workbench.charts import curve_cache
from workbench.charts.curve_cache import load_cache
from workbench.charts.curves import RunCurves
from workbench.chat.sampling_presets import load_sampling_presets
from workbench.chat.transcripts import as_markdown, list_conversations, load, recent_prompts
from workbench.commands.runs import run_record
from workbench.data.prepared_data import list_prepared
from workbench.presets.preflight import expected_speed, measurements
from workbench.runs.catalog import RunCatalog
from workbench.runs.listing import SORTS, select_runs
from workbench.train.queue import RunQueue
from workbench.ui.settings import load_settings

TINY = {
    "data.corpus": "stories",
    "data.size_mb": "0.02",
    "tokenizer.kind": "byte",
    "model.n_layer": "1",
    "model.d_model": "8",
    "model.n_head": "1",
    "model.context": "8",
    "train.steps": "4",
    "train.batch_size": "1",
    "train.device": "cpu",
    "train.precision": "fp32",
    "train.threads": "1",
    "checkpoint.every": "2",
    "sample.every": "2",
    "sample.max_tokens": "2",
    "evaluate.every": "2",
    "evaluate.batches": "1",
}
SETTINGS = 'theme = "high-contrast"\nredraws_per_second = 0.5\nsmoothing = 0.9\n[keys]\n"train.save" = "w"\n'
KNOBS = '[calm]\ntemperature = 0.5\ntop_k = 20\nstop = ["a", "b"]\n[wild]\ntemperature = 1.5\n'
"""Files of the home that this program writes only when asked to."""


@dataclass(frozen=True)
class Kind:
    """One kind of file: a whole one at `path`, and what reads it. `settle` makes checksums right again."""

    name: str
    path: Path
    read: Callable[[], object]
    settle: Callable[[], object] = lambda: None


def trained_home(home: Path) -> Run:
    """A home with one finished run, and a file of every kind that lies in a home."""
    config = with_overrides(RunConfig(), list(TINY.items()))
    run = Run.create(home, "tiny", config)
    run_training(run, home)
    run.update_meta(pins=[2], notes="mine", tags=["a"], prompts=["Once"])
    run.send("set", key="train.lr", value="0.001")
    run.send("save")
    (home / "settings.toml").write_text(SETTINGS)
    (home / "knobs.toml").write_text(KNOBS)
    (home / "presets").mkdir()
    (home / "presets" / "mine.toml").write_text(to_toml(config))
    (home / "queue.json").write_text(json.dumps({"format": 1, "runs": ["tiny"]}))
    (home / "transcripts").mkdir()
    (home / "transcripts" / "one.jsonl").write_text("\n".join(map(json.dumps, transcript())) + "\n")
    (home / "measured.json").write_text(json.dumps({"format": 1, "measured": [measured()]}))
    RunCatalog(home).refresh()
    return run


def transcript() -> list[dict[str, Any]]:
    first = {"type": "exchange", "number": 1, "parent": 0, "kind": "text", "prompt": "Once", "reply": " upon"}
    second = {"type": "exchange", "number": 2, "parent": 1, "kind": "turn", "prompt": "What?", "reply": "a time"}
    knobs = {"temperature": 0.8, "seed": 3}
    more = {"knobs": knobs, "tokens": [1, 2], "given": 1, "changes": [[1, knobs]], "others": ["x"], "model": "tiny@2"}
    return [{"format": 1, "type": "conversation", "created": 1.5e9}, first | more, second | more]


def measured() -> dict[str, Any]:
    names = ("name", "key", "machine", "device", "precision", "compiled", "threads", "step_seconds")
    more = ("tokens_per_second", "flops_per_second", "training_bytes", "peak_bytes", "time")
    values = ("tiny", "k", "m", "cpu", "fp32", False, 1, 0.1, 100.0, 1e9, 10, 10, 1.0)
    return dict(zip((*names, *more), values, strict=True))


def kept_curves(run: Run) -> Path:
    """The file of a run's curves, which only a long log is worth."""
    curves, usual = RunCurves(run), curve_cache.WORTH_BYTES
    curves.catch_up()
    curve_cache.WORTH_BYTES = 0
    try:
        assert curve_cache.save_cache(curves)
    finally:
        curve_cache.WORTH_BYTES = usual
    return curve_cache.cache_path(curves)


def run_kinds(home: Path) -> list[Kind]:
    """Everything that is read of the home that `trained_home` made."""
    run = Run(home / "runs" / "tiny")
    newest = run.checkpoint().path
    dataset, _ = find_tokenized_dataset(run.config(), home)
    assert dataset is not None
    known: Dataset = dataset

    def row() -> None:
        rows = RunCatalog(home).refresh()
        for sort in SORTS:
            select_runs(rows, "tiny", sort)
        run_record(run)

    def log() -> None:
        list(read_events(run.path / "events.jsonl"))
        last_events(run.path / "events.jsonl")
        last_event_of(run.path / "events.jsonl", Started)
        RunCurves(run).catch_up()
        row()

    def orders() -> None:
        config = run.config()
        tail = CommandTail(run.path / "commands.jsonl")
        tail.lines.offset = 0
        for command in tail.poll():
            queue = CommandQueue()
            queue.inject(Command(command.name, command.id, command.arguments))
            queue.requested_stop()
            try:
                set_live_field(config, str(command.arguments.get("key", "")), str(command.arguments.get("value", "")))
            except ConfigError:
                continue

    def resumed() -> None:
        config = config_for_resume(run, ())
        check_checkpoints(run, config)
        newest_state(run)
        state = new_state(config, known.tokenizer.vocab_size)
        for _ in restore_newest(run, state):
            pass
        batch_plan = resolve_batch_plan(
            config, 256, len(known.train), global_batch_size=state.global_batch_size, micro_batch=state.micro_batch
        )
        resolve_plan(config, state, known, batch_plan, Ranks())

    def checkpoint() -> None:
        open_parent(home, "tiny@last")
        list_prepared(home)
        row()
        resumed()
        load_model(run, run.checkpoint())

    def conversation() -> None:
        as_markdown(load(home / "transcripts" / "one.jsonl"))
        list_conversations(home)
        recent_prompts(home)

    def preset() -> None:
        list_presets(home)
        load_preset("mine", home)

    def meta() -> None:
        row()
        run.update_meta(notes="other")

    def queue() -> None:
        RunQueue(home).names()
        RunQueue(home).remove("other")
        RunQueue(home).take()

    def configuration() -> None:
        row()
        Run.open(home, "tiny").config()

    return [
        Kind("curves.npz", kept_curves(run), lambda: load_cache(run).catch_up()),
        Kind("events.jsonl", run.path / "events.jsonl", log),
        Kind("commands.jsonl", run.path / "commands.jsonl", orders),
        Kind("run.toml", run.path / "run.toml", configuration),
        Kind("meta.json", run.path / "meta.json", meta),
        Kind("lock", run.path / "lock", row),
        Kind("manifest.json", newest / "manifest.json", checkpoint),
        *[Kind(name, newest / name, checkpoint, lambda: settle(newest)) for name in CHECKPOINT_FILES],
        Kind("tokenizer.json", run.path / "tokenizer" / "tokenizer.json", checkpoint),
        Kind("transcript", home / "transcripts" / "one.jsonl", conversation),
        Kind("preset", home / "presets" / "mine.toml", preset),
        Kind("settings.toml", home / "settings.toml", lambda: load_settings(home)),
        Kind("knobs.toml", home / "knobs.toml", lambda: load_sampling_presets(home)),
        Kind("queue.json", home / "queue.json", queue),
        Kind("measured.json", home / "measured.json", lambda: (measurements(home), expected_speed(home, RunConfig()))),
        Kind("runs.json", home / "cache" / "runs.json", row),
    ]


CHECKPOINT_FILES = ("state.json", "model.safetensors", "optimizer.safetensors")


def settle(checkpoint: Path) -> None:
    """Give every file of a checkpoint the size and checksum it has now: wrong content that no checksum finds."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name in manifest["files"]:
        file = checkpoint / name
        manifest["files"][name] = {"size": file.stat().st_size, "sha256": sha256_of(file)}
    path.write_text(json.dumps(manifest))
