"""The presets in use: flags in their notes, first losses, and a short training of each."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from llm.config import ModelConfig, RunConfig, list_presets, load_preset, resolve_model, shipped_directory
from llm.model.transformer import Transformer
from llm.optim import build_optimizer, lr_at
from tests.config.seed_presets import HOME, preset
from tests.draining import result_of


def flags_in(text: str) -> list[tuple[str, str]]:
    """The fields and values in the comments of a preset."""
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return re.findall(
        r"--((?:data|tokenizer|model|optim|schedule|train|evaluate|checkpoint)\.\S+) ([^\s;,:.)]\S*)", comments
    )


@pytest.mark.parametrize("name", [item.name for item in list_presets(HOME)])
def test_flags_in_the_notes_are_valid(name: str) -> None:
    given = flags_in((shipped_directory() / f"{name}.toml").read_text(encoding="utf-8"))
    sample = {"N": "8", "KIND": "byte"}
    for field, value in given:
        text = value.rstrip(".;,:)").strip("'")
        load_preset(name, HOME, [(field, sample.get(text, text))])
    if name in ("cs336-assignment", "nanochat-base"):
        assert len(given) > 3


DOCUMENTS = {
    "cs336-lecture": "Implementing a large language model from scratch, part 4: training and autoregressive decoding",
    "cs336-assignment": "CS336's first assignment",
    "gpt2-124m": "Building a large model from scratch: pre-training on unsupervised data",
    "gpt2-124m-stable": "gpt2-124m with a stable schedule",
    "tinystories-llama": "Build and train a large language model from scratch",
    "nanochat-base": "nanochat: LLM base training, explained",
}


@pytest.mark.parametrize("name", [item.name for item in list_presets(HOME)])
def test_notes_name_the_source_and_the_differences(name: str) -> None:
    text = (shipped_directory() / f"{name}.toml").read_text(encoding="utf-8")
    head = text.partition("\npurpose = ")[0].partition("\nextends = ")[0]
    assert head.startswith("# ")
    assert DOCUMENTS.get(name, "") in head
    if name in DOCUMENTS and name != "gpt2-124m-stable":
        assert "Left open by" in head
        assert "Different on purpose:" in head


def test_the_first_optimizer_of_the_assignment() -> None:
    """SGD with the learning rate 1e-3/√(t+1), without weight decay and warm-up."""
    notes = (shipped_directory() / "cs336-assignment.toml").read_text(encoding="utf-8")
    given = flags_in("# --optim.kind sgd" + notes.partition("--optim.kind sgd")[2])
    wanted = {
        "optim.kind",
        "schedule.kind",
        "train.lr",
        "schedule.warmup_steps",
        "schedule.lr_min",
        "optim.weight_decay",
    }
    flags = [(field, value.rstrip(".")) for field, value in given if field in wanted]
    config = load_preset("cs336-assignment", HOME, flags)
    assert {field for field, _ in flags} == wanted
    found = [lr_at(step, 5000, config) for step in range(5000)]
    assert found == pytest.approx([1e-3 / math.sqrt(step + 1) for step in range(5000)], rel=1e-12)
    optimizer = build_optimizer(Transformer(shrunk(config, 31, n_layer=1)), config)
    assert {(group.rule.name, group.lr, group.weight_decay) for group in optimizer.groups} == {("sgd", 1e-3, 0.0)}


def shrunk(config: RunConfig, vocab_size: int, **changes: int) -> ModelConfig:
    return resolve_model(replace(config.model, vocab_size=0, **changes), vocab_size)


@pytest.mark.parametrize("name", ["gpt2-124m", "gpt2-124m-stable"])
def test_first_loss_of_gpt2_is_near_the_logarithm_of_its_vocabulary(name: str) -> None:
    """At full width and vocabulary: ln 50257 = 10.825; the document's first loss is 11.016."""
    model = Transformer(shrunk(preset(name), 50257, n_layer=2, context=64))
    model.init_weights(torch.Generator().manual_seed(1))
    model.eval()
    text = torch.randint(0, 50257, (2, 65), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert float(model.loss(text[:, :-1], text[:, 1:])) == pytest.approx(math.log(50257), abs=0.3)


def test_every_story_of_a_file_starts_with_bos(tmp_path: Path) -> None:
    from llm.data.tokens.prepare import prepare

    stories = [f"Once there was a fox who had {n} hens.\nThe end of story {n}.\n" for n in range(60)]
    (tmp_path / "stories.txt").write_text("<|endoftext|>\n".join(stories))
    small = {"data__corpus": str(tmp_path / "stories.txt"), "tokenizer__vocab_size": "330", "model__context": "16"}
    dataset = result_of(prepare(preset("tinystories-llama", **small), tmp_path))
    for split in (dataset.train, dataset.validation):
        ids = split.read(0, len(split)).tolist()
        begins = [place for place, token in enumerate(ids) if token == 1]
        found = [dataset.tokenizer.decode(ids[a + 1 : b]) for a, b in pairwise([*begins, len(ids)])]
        assert ids[0] == 1 and len(found) > 1
        assert {text.strip() for text in found} <= {text.strip() for text in stories}


TINY = {
    "model.context": "16",
    "model.vocab_size": "0",
    "train.seq_len": "0",
    "train.batch_size": "2",
    "train.steps": "2",
    "train.device": "cpu",
    "train.threads": "1",
    "train.total_batch_tokens": "0",
    "evaluate.batches": "2",
    "sample.max_tokens": "4",
    "tokenizer.vocab_size": "300",
    "tokenizer.train_mb": "0.1",
    "data.validation_fraction": "0.1",
}
SHALLOW = {"model.n_layer": "1", "model.d_model": "16", "model.n_head": "2", "model.n_kv_head": "0", "model.d_ff": "0"}
SPECIAL = {
    "nanochat-base": {"model.depth": "2"},
    "gpt2-124m": {"tokenizer.kind": "byte"},
    "gpt2-124m-stable": {"tokenizer.kind": "byte"},
    "quickstart-chat": {"data.corpus": "dialogues", "data.size_mb": "0.1", "model.context": "256"},
}


@pytest.mark.parametrize("name", [preset.name for preset in list_presets(HOME)])
def test_every_preset_trains_when_shrunk(name: str, corpus: Path, tmp_path: Path) -> None:
    from llm.run import Run
    from llm.training.run import run_training

    overrides = (
        TINY | {"data.corpus": str(corpus)} | ({} if name == "nanochat-base" else SHALLOW) | SPECIAL.get(name, {})
    )
    config = load_preset(name, tmp_path, list(overrides.items()))
    run = Run.create(tmp_path, "tiny", config)
    finished = run_training(run, tmp_path)
    assert (finished.status, finished.step) == ("finished", 2)
    assert math.isfinite(run.checkpoint().metrics["loss"])
