"""A packed model computes the same function as the original one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.engine import Engine
from llm.engine import weights as engine_weights
from llm.model.attention import KVCache
from llm.model.packed import PackedLinear, PackedTransformer, can_pack
from llm.model.quantized import has_int4
from llm.model.transformer import Transformer
from llm.tokenizer.byte import ByteTokenizer
from tests.model.models_for_tests import relative_error, tiny, tokens

CPU = torch.device("cpu")
DTYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(not can_pack(CPU, dtype), reason="torch cannot pack this here"))
    for dtype in (torch.float32, torch.bfloat16)
]
NEEDS_INT4 = pytest.mark.skipif(not has_int4(), reason="torch has no int4 product here")
PLAIN = pytest.param(torch.float64)  # which no machine packs: the same layout, multiplied as usual
OPTIONS: list[dict[str, Any]] = [
    {"dropout": 0.1},
    {"rope_pairs": "halves", "qk_norm": True, "softcap": 4.0, "tied_head": False, "mlp": "relu2", "norm_gain": False},
    {"position": "learned", "n_kv_head": 2, "norm": "layernorm", "mlp": "gelu", "bias": True, "qkv_bias": True},
    {"qk_norm": True, "qk_gain": True, "head_dim": 14},
    {"qk_norm": True, "qk_gain": True, "rope_pairs": "halves", "n_kv_head": 2},
    {"mlp": "gelu-exact", "bias": True, "rope_inverse": True, "n_kv_head": 2},
    {"embedding_conv": 3},
]


def model_of(config: ModelConfig, seed: int = 5) -> Transformer:
    model = Transformer(replace(config, init_std=0.2))
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [*DTYPES, PLAIN])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_original_model(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = model_of(tiny(**options)).to(torch.promote_types(dtype, torch.float32))
    packed, text = PackedTransformer(model, dtype), tokens(model.config, 3, 13)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    assert relative_error(packed(text), model(text)) < tolerance
    cache = KVCache(packed.config, 3, dtype=packed.cache_dtype)
    read = [packed(piece, cache) for piece in text.split([5] + [1] * 8, dim=1)]
    assert relative_error(torch.cat(read, dim=1), model(text)) < tolerance
    assert read[0].dtype == packed.cache_dtype == model.head_weight.dtype


@torch.no_grad()
@pytest.mark.parametrize("dtype", [*DTYPES, PLAIN])
@pytest.mark.parametrize("options", OPTIONS)
def test_shares_no_memory_with_the_original_model(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = model_of(tiny(**options)).to(dtype)
    packed, text = PackedTransformer(model, dtype), tokens(model.config, 3, 13)
    before = packed(text)
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(packed(text), before)
    packed.load_from(model)
    assert not packed(text).any()


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_other_rows(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(211, 89, generator=generator).to(dtype), torch.randn(7, 89, generator=generator).to(dtype)
    packed = PackedLinear(weight)
    together = packed(x)
    torch.testing.assert_close(together, F.linear(x, weight), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)
    for row in range(7):
        assert torch.equal(packed(x[row : row + 1])[0], together[row])
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    assert torch.equal(packed(x), together)
    torch.set_num_threads(before)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "error"), [(torch.int8, 0.15), pytest.param(torch.quint4x2, 0.9, marks=NEEDS_INT4)])
@pytest.mark.parametrize("options", OPTIONS)
def test_an_integer_model_is_near_the_original(options: dict[str, Any], dtype: torch.dtype, error: float) -> None:
    model = model_of(tiny(**options))
    packed, text = PackedTransformer(model, dtype), tokens(model.config, 3, 13)
    assert relative_error(packed(text), model(text)) < error
    nats = packed.loss(text[:, :-1], text[:, 1:], reduction="none")
    assert nats.shape == (3, 12)
    assert relative_error(nats, model.loss(text[:, :-1], text[:, 1:], reduction="none")) < error


def test_an_engine_generates_with_int8_weights_and_newer_ones() -> None:
    tokenizer = ByteTokenizer(("<|endoftext|>",))
    config = tiny(vocab_size=tokenizer.vocab_size, context=32)
    first, second = model_of(config, 1), model_of(config, 2)
    engine = Engine(first, tokenizer, weights="int8", weights_version=1)
    params = DecodeConfig(temperature=0.0, max_tokens=9, ban_end=True)
    before = list(engine.stream("Ab", params))[:-1]
    engine.refresh(second, 2)
    expected = list(Engine(second, tokenizer, weights="int8").stream("Ab", params))[:-1]
    assert list(engine.stream("Ab", params))[:-1] == expected != before


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_engine_packs_a_large_model_and_loads_newer_weights(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ByteTokenizer(("<|endoftext|>",))
    config = tiny(vocab_size=tokenizer.vocab_size, context=32)
    first, second = model_of(config, 1), model_of(config, 2)
    assert Engine(first, tokenizer).model is first
    monkeypatch.setattr(engine_weights, "PACKED_FROM", 1)
    engine = Engine(first, tokenizer, dtype=dtype, weights_version=1)
    assert isinstance(engine.model, PackedTransformer)
    params = DecodeConfig(temperature=0.0, max_tokens=9, ban_end=True)
    before = list(engine.stream("Ab", params))[:-1]
    engine.refresh(second, 2)
    assert isinstance(engine.model, PackedTransformer)
    expected = list(Engine(second, tokenizer, dtype=dtype).stream("Ab", params))[:-1]
    assert list(engine.stream("Ab", params))[:-1] == expected != before
    double = model_of(config).double()
    assert Engine(double, tokenizer).model is double


def test_bfloat16_that_onednn_may_not_multiply_is_not_chosen() -> None:
    """oneDNN reads the variable when it is loaded, hence another process."""
    program = (
        "import torch; from llm.device import choose_precision; from llm.model.packed import PackedLinear\n"
        "print(choose_precision('auto', 'cpu'), PackedLinear(torch.ones(2, 3, dtype=torch.bfloat16)).is_packed)"
    )
    masked = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=masked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fp32", "False"]
