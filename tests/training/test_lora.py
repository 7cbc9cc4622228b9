"""Fine-tuning with adapters: frozen base, checkpoints, resume, forks, export, a parent that is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llm.config import DecodeConfig, with_overrides
from llm.engine import Engine
from llm.errors import ConfigError, UserError, WrongUse
from llm.files import sha256_of
from llm.interop.export import export
from llm.interop.formats import FORMATS
from llm.interop.source import open_source
from llm.model.counts import trained_parameters
from llm.run import Run
from llm.run.checkpoints import ADAPTER, MODEL, OPTIMIZER
from llm.run.fork import fork, open_parent
from llm.training.live import LiveWeights
from llm.training.run import run_training
from llm.training.start_stage import plan_stage, start_stage
from llm.weights import load_model
from tests.interop.runs_for_tests import finish

from .test_resume import StopAfter, assert_same_end
from .test_sft import base_home as base_home
from .test_sft import parent as parent
from .test_sft import sft, write_conversations

LORA = {"tune__lora_rank": "3", "train__epochs": "0", "train__steps": "6", "train__lr": "0.003"}


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return write_conversations(tmp_path / "talk.jsonl")


def test_a_run_trains_adapters_of_a_base_that_it_keeps(parent: Run, talk: Path, tmp_path: Path) -> None:
    run = sft(tmp_path, talk, **LORA)
    shutil.rmtree(parent.path)
    started, tokenizer = load_model(run, run.checkpoint())
    lives: list[LiveWeights] = []
    assert run_training(run, tmp_path, on_live=lives.append).status == "finished"

    checkpoint, base = run.checkpoint(), run.path / "base" / MODEL
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    assert manifest["base"] == {"name": "base@4", "sha256": sha256_of(base)}
    assert sorted(manifest["files"]) == [ADAPTER, OPTIMIZER, "state.json"]
    adapters = load_file(checkpoint.path / ADAPTER)
    tune, counted = run.config().tune, sum(tensor.numel() for tensor in adapters.values())
    assert tune.lora_rows == 4 and run.config().train.lr_multiplier == 1
    assert counted == sum(trained_parameters(started.config, tune).values())
    state = load_file(checkpoint.path / OPTIMIZER)
    assert sum(tensor.numel() for tensor in state.values()) - 1 == 2 * counted

    merged, _ = load_model(run, checkpoint)
    text = torch.randint(0, tokenizer.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = (merged(text) - started(text)).abs().max()
        unmerged = lives[0].state.model.eval()
        assert change > 0.01 and (merged(text) - unmerged(text)).abs().max() < 1e-5
    kept = load_file(base)
    assert all(value.equal(kept[name]) for name, value in unmerged.state_dict().items() if name in kept)
    snapshot, _ = lives[0].snapshot()
    assert all(value.equal(merged.state_dict()[name]) for name, value in snapshot.state_dict().items())
    assert list(Engine(merged, tokenizer).stream("a", DecodeConfig(max_tokens=3)))


def test_an_interrupted_run_equals_an_uninterrupted_one(parent: Run, talk: Path, tmp_path: Path) -> None:
    whole = sft(tmp_path, talk, model__dropout="0.1", **LORA)
    assert run_training(whole, tmp_path).status == "finished"
    run = sft(tmp_path, talk, model__dropout="0.1", **LORA)
    assert run_training(run, tmp_path, commands=StopAfter(4)).status == "stopped"
    assert run_training(run, tmp_path).status == "finished"
    assert_same_end(whole, run)


def test_transformers_gives_the_logits_of_an_export(parent: Run, talk: Path, tmp_path: Path) -> None:
    """Every format reads the same merged weights (`Source.weights`)."""
    run = sft(tmp_path, talk, **LORA)
    run_training(run, tmp_path)
    folder = finish(export(open_source(run, run.checkpoint()), FORMATS["hf"], "f32", tmp_path / "out"))
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours, tokenizer = load_model(run, run.checkpoint())
    text = torch.randint(0, tokenizer.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (ours(text) - theirs(text).logits).abs().max() < 1e-5


def test_a_fork_continues_adapters_and_a_stage_starts_from_the_merged_model(
    parent: Run, talk: Path, tmp_path: Path
) -> None:
    run = sft(tmp_path, talk, **LORA)
    run_training(run, tmp_path)
    start = open_parent(tmp_path, run.name)
    longer = with_overrides(start.config, [("train.steps", "8")])
    with pytest.raises(ConfigError, match=r"lora_rank.*adapters have the parent's shape"):
        fork(tmp_path, start, with_overrides(longer, [("tune.lora_rank", "2")]))
    continued = fork(tmp_path, start, longer)
    shutil.rmtree(tmp_path / "runs" / "base")
    assert run_training(continued, tmp_path).step == 8
    model, _ = load_model(run, run.checkpoint())
    for rank in ("0", "2"):
        overrides = [("data.corpus", str(talk)), ("tune.lora_rank", rank)]
        stage = start_stage(tmp_path, plan_stage(tmp_path, start, overrides))
        again, _ = load_model(stage, stage.checkpoint())
        assert all(value.equal(model.state_dict()[name]) for name, value in again.state_dict().items())
        assert stage.config().tune.lora_rows == 0


def test_adapters_without_their_base_are_refused_by_name(parent: Run, talk: Path, tmp_path: Path) -> None:
    run = sft(tmp_path, talk, **LORA)
    other = sft(tmp_path, talk, **LORA)
    parent_base, base = other.path / "base", run.path / "base"
    weights = bytearray((base / MODEL).read_bytes())
    weights[-1] ^= 1
    (base / MODEL).write_bytes(weights)
    with pytest.raises(UserError, match=r"base/model.safetensors is damaged"):
        load_model(run, run.checkpoint())
    shutil.rmtree(base)
    with pytest.raises(UserError, match=r"adapters of base@4, whose weights are not in"):
        run_training(run, tmp_path)
    shutil.copytree(parent_base, base)
    assert run_training(run, tmp_path).status == "finished"


def test_what_does_not_fit_adapters_is_refused_with_a_sentence(parent: Run, talk: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.sharding: LoRA trains few weights"):
        sft(tmp_path, talk, train__sharding="fsdp", **LORA)
    with pytest.raises(WrongUse, match=r"new optimizer state; leave out --keep-optimizer"):
        sft(tmp_path, talk, keep_optimizer=True, **LORA)
    with pytest.raises(ConfigError, match=r"tune.lora_rank: is for tune.stage sft and dpo"):
        with_overrides(parent.config(), [("tune.lora_rank", "4")])
    config = with_overrides(
        parent.config(), [("tune.stage", "sft"), ("data.corpus", str(talk)), ("tune.lora_rank", "4")]
    )
    with pytest.raises(UserError, match=r"no model to add adapters to"):
        run_training(Run.create(tmp_path, "none", config), tmp_path)
