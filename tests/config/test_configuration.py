"""Whole configurations: TOML, overrides and the report of all problems."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm.config import (
    Field,
    ModelConfig,
    RunConfig,
    TrainConfig,
    check,
    diff,
    fields_of,
    from_mapping,
    from_toml,
    resolve_accumulation,
    resolve_model,
    to_mapping,
    to_toml,
    with_overrides,
)
from llm.errors import ConfigError


def problems_of(mapping: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        from_mapping(mapping)
    return {problem.path: problem.message for problem in raised.value.problems}


def values_of(field: Field) -> st.SearchStrategy[Any]:
    low = field.low if field.low is not None else 0 if field.above is None else field.above
    high = field.high if field.high is not None else low + 1e6
    if field.choices:
        return st.sampled_from(field.choices)
    if field.path == "train.device":
        return st.sampled_from(["auto", "cpu", "cuda:3"])
    if field.type is bool:
        return st.booleans()
    if field.type is int:
        return st.integers(int(low), int(high))
    if field.type is float:
        return st.floats(low, high, exclude_min=field.above is not None)
    text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
    return st.lists(text, max_size=3).map(tuple) if field.type is tuple else text


@st.composite
def configurations(draw: st.DrawFn) -> RunConfig:
    """Any configuration that `check` accepts."""
    chosen = draw(st.lists(st.sampled_from(fields_of(RunConfig)), max_size=8, unique_by=lambda field: field.path))
    config = RunConfig()
    for field in chosen:
        value = draw(values_of(field))
        if field.section:
            config = replace(config, **{field.section: replace(getattr(config, field.section), **{field.name: value})})
        else:
            config = replace(config, **{field.name: value})
    assume(not check(config))
    return config


@settings(deadline=None)
@given(configurations())
def test_toml_round_trip(config: RunConfig) -> None:
    assert from_toml(to_toml(config)) == config
    assert from_mapping(to_mapping(config), base=from_mapping({"train": {"tokens": 7}})) == config


def test_the_run_table_is_not_configuration() -> None:
    assert from_toml(to_toml(RunConfig()) + '\n[run]\nid = "x"\n') == RunConfig()


def test_overrides_allow_hyphens_and_the_last_one_wins() -> None:
    config = with_overrides(RunConfig(), [("model.n-layer", "3"), ("model.n_layer", "5"), ("train.lr", "1e-2")])
    assert diff(RunConfig(), config) == [("model.n_layer", 4, 5), ("train.lr", 3e-4, 1e-2)]


def test_a_length_replaces_a_length_of_another_kind() -> None:
    by_epochs = with_overrides(RunConfig(), [("train.epochs", "1.5")])
    assert (by_epochs.train.steps, by_epochs.train.epochs) == (0, 1.5)
    assert with_overrides(by_epochs, [("train.steps", "9")]).train == replace(TrainConfig(), steps=9)


def test_all_problems_are_reported_with_suggestions() -> None:
    found = problems_of(
        {
            "modle": {"n_layer": 3},
            "lr": 1e-3,
            "model": {"n_heads": 4, "n_head": 5, "dropout": 2.0, "d_model": 128.5},
            "train": "fast",
            "optim": {"kind": 3},
            "schedule": {"lr_min": 1.0, "hold_until": 0.9, "decay_until": 0.5},
        }
    )
    assert "did you mean model.n_layer?" in found["modle.n_layer"]
    assert "did you mean train.lr?" in found["lr"]
    assert "did you mean model.n_head?" in found["model.n_heads"]
    assert found["model.dropout"] == "must be at most 0.95, not 2"
    assert found["model.d_model"] == "must be a whole number, not 128.5"
    assert "must be a table" in found["train"]
    assert found["optim.kind"] == "must be a string, not 3"
    assert "above the peak" in found["schedule.lr_min"]
    assert "is after" in found["schedule.hold_until"]
    assert "model.n_head" not in found, "d_model could not be read, so it cannot be checked against the heads"


def test_invalid_toml_is_reported_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2"):
        from_toml("purpose = 'x'\n= 3\n")


@pytest.mark.parametrize(
    ("mapping", "path", "words"),
    [
        ({"model": {"d_model": 130}}, "model.n_head", "nearest width that it divides is 132"),
        ({"model": {"d_model": 12}}, "model.n_head", "heads of width 3"),
        ({"model": {"n_kv_head": 3}}, "model.n_kv_head", "does not divide n_head = 4"),
        ({"model": {"depth": 13}}, "model.depth", "nearest valid depths are 12 and 14"),
        ({"model": {"vocab_size": 5}}, "model.vocab_size", "tokenizer.vocab_size = 2048"),
        ({"train": {"seq_len": 257}}, "train.seq_len", "longer than model.context = 256"),
        ({"train": {"total_batch_tokens": 5000}}, "train.total_batch_tokens", "the nearest is 4096"),
        ({"train": {"steps": 0}}, "train.steps", "the length of the training is not set"),
        ({"train": {"steps": 5, "tokens": 5}}, "train.tokens", "train.steps already sets the length"),
        ({"train": {"device": "gpu"}}, "train.device", "cuda:N"),
        ({"tokenizer": {"vocab_size": 256}}, "tokenizer.vocab_size", "at least 257"),
        ({"tokenizer": {"special_tokens": ["a", "a"]}}, "tokenizer.special_tokens", "different"),
        ({"tokenizer": {"special_tokens": []}}, "data.boundary", "separator"),
        ({"tokenizer": {"kind": "gpt2-files"}}, "tokenizer.path", "vocab.json"),
        ({"data": {"corpus": " "}}, "data.corpus", "empty"),
    ],
)
def test_rules_between_fields(mapping: dict[str, Any], path: str, words: str) -> None:
    found = problems_of(mapping)
    assert list(found) == [path]
    assert words in found[path]


def test_learned_positions_need_no_even_heads() -> None:
    assert from_mapping({"model": {"d_model": 12, "position": "learned"}}).model.d_model == 12


def test_resolved_shape_has_no_zeros() -> None:
    llama = resolve_model(ModelConfig(d_model=288, n_head=8, n_kv_head=4), 4096)
    assert (llama.n_kv_head, llama.d_ff, llama.vocab_size) == (4, 768, 4096)
    gpt2 = resolve_model(ModelConfig(d_model=768, n_head=12, mlp="gelu", vocab_size=50304), 50257)
    assert (gpt2.n_kv_head, gpt2.d_ff, gpt2.vocab_size) == (12, 3072, 50304)
    assert resolve_model(llama, 4096) == llama
    widths = [resolve_model(ModelConfig(d_model=512, d_ff_multiple=unit), 9).d_ff for unit in (1, 32, 256)]
    assert widths == [512 * 8 // 3, 1376, 1536]


@pytest.mark.parametrize(
    ("depth", "shape"), [(1, (1, 64, 1)), (3, (3, 192, 2)), (12, (12, 768, 6)), (20, (20, 1280, 10))]
)
def test_depth_sets_the_shape(depth: int, shape: tuple[int, int, int]) -> None:
    model = resolve_model(ModelConfig(depth=depth), 32000)
    assert (model.n_layer, model.d_model, model.n_head) == shape


def test_a_vocabulary_smaller_than_the_tokenizer_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least the tokenizer's 65 ids"):
        resolve_model(ModelConfig(vocab_size=64), 65)


def test_accumulation_from_the_total_batch() -> None:
    train = TrainConfig(batch_size=32, total_batch_tokens=524_288)
    assert resolve_accumulation(train, ModelConfig(context=2048)) == 8
    assert resolve_accumulation(train, ModelConfig(context=2048), ranks=8) == 1
    assert resolve_accumulation(TrainConfig(accumulation=3), ModelConfig()) == 3


def test_a_micro_batch_chosen_by_memory_needs_the_tokens_per_step() -> None:
    assert "set train.total_batch_tokens" in problems_of({"train": {"batch_size": 0}})["train.batch_size"]
    sharded = {"batch_size": 0, "total_batch_tokens": 2048, "sharding": "fsdp"}
    assert "train.sharding = fsdp" in problems_of({"train": sharded})["train.batch_size"]
    uneven = problems_of({"train": {"batch_size": 0, "total_batch_tokens": 2049}})
    assert uneven["train.total_batch_tokens"] == "2049 is not a multiple of seq_len = 256; the nearest is 2048"


def test_configuration_events_and_runs_do_not_import_torch() -> None:
    code = "import llm.config, llm.events, llm.run, llm.errors, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
