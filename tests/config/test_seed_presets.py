"""The presets of the five documents: shapes, counts and defaults as in the documents."""

from __future__ import annotations

from typing import Any

import pytest

from llm.config import from_mapping, get_value, to_mapping
from llm.config.fit import step_bytes
from llm.model.counts import parameters
from llm.optim import momentum_at
from tests.config.seed_presets import preset, shape

# n_layer, d_model, n_head, n_kv_head, d_ff, context, vocabulary, and the parameters summed up by hand.
SHAPES = {
    "cs336-lecture": (
        8,
        512,
        8,
        8,
        1344,
        256,
        32000,
        2 * 32000 * 512 + 8 * (4 * 512**2 + 3 * 512 * 1344 + 2 * 512) + 512,
    ),
    "cs336-assignment": (
        *(6, 384, 8, 8, 1024, 256, 32000),
        2 * 32000 * 384 + 6 * (4 * 384**2 + 3 * 384 * 1024 + 2 * 384) + 384,
    ),
    "gpt2-124m": (12, 768, 12, 12, 3072, 1024, 50257, 124_439_808 - 12 * 3 * 768),  # GPT-2's, without Q, K and V biases
    "gpt2-124m-stable": (12, 768, 12, 12, 3072, 1024, 50257, 124_412_160),
    "tinystories-llama": (
        *(8, 288, 8, 4, 768, 256, 4096),
        4096 * 288 + 8 * (2 * 288**2 + 2 * 288 * 144 + 3 * 288 * 768 + 2 * 288) + 288,
    ),
    "nanochat-base": (12, 768, 6, 6, 3072, 2048, 32000, 2 * 32000 * 768 + 12 * (4 * 768**2 + 2 * 768 * 3072)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_and_parameter_count(name: str) -> None:
    model = shape(preset(name))
    found = (model.n_layer, model.d_model, model.n_head, model.n_kv_head, model.d_ff, model.context, model.vocab_size)
    assert (*found, parameters(model)) == SHAPES[name]


def test_character_model_has_nanogpts_size() -> None:
    model = shape(preset("shakespeare-char-gpu"), 65)
    assert (model.n_layer, model.d_model, model.n_head, model.context, model.dropout) == (6, 384, 6, 256, 0.2)
    assert parameters(model) == pytest.approx(10.65e6, rel=0.01)


def test_untied_gpt2_has_163_million() -> None:
    assert parameters(shape(preset("gpt2-124m", model__tied_head="false"))) == pytest.approx(163e6, rel=0.005)


def test_the_stories_model_trains_in_under_3_gb() -> None:
    config = preset("tinystories-llama")
    assert 0.1e9 < step_bytes(config, shape(config), 256) < 3e9


def test_depth_sets_the_shape_and_must_divide() -> None:
    deep = shape(preset("nanochat-base", model__depth="20", train__steps="50000"))
    assert (deep.n_layer, deep.d_model, deep.n_head, deep.n_kv_head) == (20, 1280, 10, 10)
    with pytest.raises(Exception, match="nearest valid depths"):
        preset("nanochat-base", model__depth="11")


# Every number of the documents that is not the shape, and what a preset fills in where its document leaves one open.
VALUES: dict[str, dict[str, Any]] = {
    "cs336-lecture": {
        "tokenizer.kind": "bpe",
        "tokenizer.vocab_size": 32000,
        "tokenizer.special_tokens": ("<|endoftext|>",),
        "data.chunk_tokens": 500_000,
        "data.order": "random",
        "data.boundary": "after",
        "model.norm": "rmsnorm",
        "model.norm_eps": 1e-5,
        "model.position": "rope",
        "model.rope_theta": 100000.0,
        "model.rope_pairs": "even-odd",
        "model.mlp": "swiglu",
        "model.tied_head": False,
        "model.bias": False,
        "model.init": "xavier-truncated",
        "optim.kind": "adamw",
        "optim.beta1": 0.9,
        "optim.beta2": 0.95,
        "optim.eps": 1e-8,
        "optim.eps_inside": True,
        "optim.decay_after": False,
        "optim.decay_all": True,
        "optim.weight_decay": 0.01,
        "train.epochs": 1.5,
        "train.steps": 0,
        "train.batch_size": 48,
        "train.seq_len": 256,
        "train.lr": 1e-4,
        "train.clip": 1.0,
        "train.log_every": 100,
        "checkpoint.every": 500,
        "sample.every": 100,
    },
    "cs336-assignment": {
        "data.order": "epoch",
        "data.stride": 1,
        "data.boundary": "after",
        "tokenizer.special_tokens": ("<|endoftext|>",),
        "model.norm": "rmsnorm",
        "model.position": "rope",
        "model.mlp": "swiglu",
        "model.rope_theta": 10000.0,
        "model.rope_pairs": "even-odd",
        "model.norm_eps": 1e-5,
        "model.bias": False,
        "model.qkv_bias": False,
        "model.tied_head": False,
        "model.init": "xavier-truncated",
        "optim.beta1": 0.9,
        "optim.beta2": 0.999,
        "optim.eps": 1e-8,
        "optim.eps_inside": True,
        "optim.decay_after": True,
        "optim.decay_all": True,
        "optim.kind": "adamw",
        "optim.weight_decay": 0.01,
        "train.steps": 5000,
        "train.batch_size": 16,
        "train.lr": 3e-4,
        "train.clip": 1.0,
        "train.seed": 42,
        "train.log_every": 50,
        "evaluate.every": 200,
        "evaluate.batches": 20,
        "checkpoint.every": 1000,
    },
    "gpt2-124m": {
        "tokenizer.kind": "tiktoken",
        "tokenizer.encoding": "gpt2",
        "data.split": "tail",
        "data.validation_fraction": 0.1,
        "data.order": "epoch",
        "data.stride": 0,  # the context, as the document has it
        "data.drop_last": True,
        "data.boundary": "none",
        "model.norm": "layernorm",
        "model.norm_eps": 1e-5,
        "model.position": "learned",
        "model.mlp": "gelu",
        "model.bias": True,
        "model.qkv_bias": False,
        "model.tied_head": True,
        "model.dropout": 0.1,
        "model.init": "residual-scaled",
        "optim.beta1": 0.9,
        "optim.beta2": 0.999,
        "optim.eps": 1e-8,
        "optim.eps_inside": False,
        "optim.decay_all": True,
        "optim.kind": "adamw",
        "optim.weight_decay": 0.1,
        "train.steps": 2700,
        "train.batch_size": 8,
        "train.seq_len": 0,  # the context
        "train.precision": "fp32",
        "train.clip": 0.0,
        "train.seed": 123,
        "train.log_every": 1,
        "evaluate.at_start": True,
        "evaluate.every": 100,
        "evaluate.batches": 50,
        "evaluate.train_too": True,
        "sample.every": 100,
        "sample.prompt": "Every effort moves you",
        "sample.max_tokens": 50,
    },
    "tinystories-llama": {
        "tokenizer.kind": "sentencepiece",
        "tokenizer.vocab_size": 4096,
        "data.boundary": "before",
        "model.norm": "rmsnorm",
        "model.position": "rope",
        "model.bias": False,
        "model.norm_eps": 1e-5,
        "model.rope_theta": 10000.0,
        "model.rope_pairs": "even-odd",
        "model.mlp": "swiglu",
        "model.tied_head": True,
        "model.dropout": 0.0,
        "model.init": "residual-scaled",
        "model.init_std": 0.02,
        "optim.beta1": 0.9,
        "optim.beta2": 0.95,
        "optim.eps": 1e-8,
        "optim.eps_inside": False,
        "optim.kind": "adamw",
        "optim.weight_decay": 0.1,
        "optim.decay_all": False,
        "train.steps": 100_000,
        "train.batch_size": 8,
        "train.accumulation": 4,
        "train.clip": 1.0,
        "train.precision": "bf16",
        "train.log_every": 1,
        "evaluate.every": 2000,
        "evaluate.batches": 100,
        "checkpoint.only_improved": True,
    },
    "nanochat-base": {
        "data.order": "stream",
        "data.boundary": "before",
        "data.text_field": "text",
        "model.norm": "rmsnorm",
        "model.norm_eps": 2.0**-23,  # torch.finfo(torch.float32).eps
        "model.norm_gain": False,
        "model.embedding_norm": True,
        "model.position": "rope",
        "model.rope_theta": 10000.0,
        "model.rope_pairs": "halves",
        "model.rope_inverse": True,
        "model.qk_norm": True,
        "model.mlp": "relu2",
        "model.tied_head": False,
        "model.bias": False,
        "model.softcap": 15.0,
        "model.init": "zero-output-normal",
        "optim.kind": "muon",
        "optim.matrix_lr": 0.02,
        "optim.momentum": 0.95,
        "optim.momentum_start": 0.85,
        "optim.momentum_warmup_steps": 300,
        "optim.embedding_lr": 0.2,
        "optim.head_lr": 0.004,
        "optim.width_scaled_lr": True,
        "optim.beta1": 0.8,
        "optim.beta2": 0.95,
        "optim.eps": 1e-10,
        "optim.eps_inside": False,
        "optim.weight_decay": 0.0,
        "train.steps": 10_000,
        "train.batch_size": 32,
        "train.total_batch_tokens": 524_288,
        "train.clip": 1.0,
        "train.precision": "bf16",
    },
    "shakespeare-char-gpu": {
        "tokenizer.kind": "char",
        "optim.beta2": 0.99,
        "train.steps": 5000,
        "train.batch_size": 64,
        "train.lr": 1e-3,
        "schedule.lr_min": 1e-4,
        "schedule.warmup_steps": 100,
    },
}


@pytest.mark.parametrize("name", VALUES)
def test_values_of_the_documents(name: str) -> None:
    config = preset(name)
    assert {path: get_value(config, path) for path in VALUES[name]} == VALUES[name]
    assert config.group == "five systems"


DECODING: dict[str, dict[str, Any]] = {
    "cs336-lecture": {"temperature": 0.8, "repetition_penalty": 1.1, "repetition_window": 64, "separator_first": False},
    "cs336-assignment": {"temperature": 1.0, "top_k": 0, "separator_first": False},
    "gpt2-124m": {"temperature": 1.0, "max_tokens": 50, "top_k": 0, "separator_first": False},
    "tinystories-llama": {
        "temperature": 1.0,
        "top_k": 300,
        "num_samples": 3,
        "max_tokens": 256,
        "separator_first": True,
        "seed": 1234,
    },
    "nanochat-base": {"separator_first": True},
}


@pytest.mark.parametrize("name", DECODING)
def test_decoding_defaults(name: str) -> None:
    decode = preset(name).decode
    assert {key: getattr(decode, key) for key in DECODING[name]} == DECODING[name]
    assert decode.temperature > 0, "greedy decoding loops on young models"


def test_what_the_stable_variant_changes() -> None:
    stable = preset("gpt2-124m-stable")
    assert (stable.train.clip, stable.optim.beta2, stable.optim.decay_all) == (1.0, 0.95, False)
    assert stable.evaluate == preset("gpt2-124m").evaluate


def test_an_old_nanochat_base_run_keeps_its_configuration() -> None:
    """Its run.toml has every field of its time; the defaults of later fields change nothing."""
    old = to_mapping(preset("nanochat-base"))
    del old["model"]["rope_inverse"], old["optim"]["momentum_start"], old["optim"]["momentum_warmup_steps"]
    old["model"] |= {"norm_eps": 1e-6, "init": "zero-output"}
    config = from_mapping(old)
    assert not config.model.rope_inverse
    assert (config.model.norm_eps, config.model.init) == (1e-6, "zero-output")
    assert {momentum_at(step, config) for step in range(400)} == {0.95}
