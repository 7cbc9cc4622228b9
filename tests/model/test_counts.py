"""Counts by formula against the model and published figures."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from llm.config.schema import ModelConfig
from llm.model import counts
from llm.model.attention import KVCache
from llm.model.transformer import Transformer
from tests.model.models_for_tests import tiny

GPT2 = ModelConfig(
    n_layer=12,
    d_model=768,
    n_head=12,
    n_kv_head=12,
    d_ff=3072,
    context=1024,
    vocab_size=50257,
    norm="layernorm",
    position="learned",
    mlp="gelu",
    bias=True,
    qkv_bias=True,
)


def test_parameters_of_every_architecture() -> None:
    names = ("norm", "norm_gain", "position", "mlp", "bias", "qkv_bias", "tied_head", "embedding_norm", "n_kv_head")
    values = itertools.product(
        ["rmsnorm", "layernorm"],
        [True, False],
        ["rope", "learned"],
        ["swiglu", "gelu", "relu2"],
        [True, False],
        [True, False],
        [True, False],
        [True, False],
        [1, 2],
    )
    with torch.device("meta"):
        for chosen in values:
            config = tiny(n_layer=1, **dict(zip(names, chosen, strict=True)))
            assert counts.parameters(config) == sum(p.numel() for p in Transformer(config).parameters())
        config = tiny(head_dim=14, qk_norm=True, qk_gain=True, qkv_bias=True, embedding_conv=3)
        assert counts.parameters(config) == sum(p.numel() for p in Transformer(config).parameters())


def test_gpt2_has_its_published_size() -> None:
    assert counts.parameters(GPT2) == 124_439_808


def test_flops_of_gpt2() -> None:
    assert counts.flops_per_token(GPT2, 1024) == pytest.approx(0.855e9, rel=1e-3)


def test_flops_do_not_depend_on_whether_the_head_is_tied() -> None:
    assert counts.flops_per_token(tiny(tied_head=True), 7) == counts.flops_per_token(tiny(tied_head=False), 7)


def test_cache_bytes() -> None:
    config = tiny(n_head=2, n_kv_head=1)
    cache = KVCache(config, 3, dtype=torch.bfloat16, length=11)
    assert 3 * counts.kv_cache_bytes(replace(config, context=11), 2) == cache.keys.nbytes + cache.values.nbytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {"n_head": 4, "n_kv_head": 2},
        {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True, "qkv_bias": True},
        {"mlp": "relu2", "norm_gain": False, "qk_norm": True},
        {"dropout": 0.1, "context": 512},
    ],
)
def test_estimate_of_saved_activations(options: dict[str, Any], precision: Any) -> None:
    sizes = {"n_layer": 3, "d_model": 64, "n_head": 2, "n_kv_head": 2, "d_ff": 192, "context": 128}
    config = tiny(**(sizes | options))
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    text = torch.randint(0, config.vocab_size, (2, config.context))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):  # noqa: SIM117
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            model.loss(text, text)
    found = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    found -= 2 * counts.parameters(config) if precision == "bf16" else 0
    assert 2 * config.context * counts.activation_bytes_per_token(config, config.context, precision) == pytest.approx(
        found, rel=0.25
    )


def test_training_bytes_of_gpt2() -> None:
    """Weights, gradients and two moments are 16 bytes per parameter; SGD needs 8."""
    adamw, sgd = (counts.training_bytes(GPT2, 1, 1, optimizer=kind) for kind in ("adamw", "sgd"))
    assert adamw - sgd == 8 * counts.parameters(GPT2)
    assert adamw == pytest.approx(16 * counts.parameters(GPT2), rel=0.1)


def test_counts_do_not_import_torch() -> None:
    program = "import sys, llm.model.counts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
