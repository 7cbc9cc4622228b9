"""The whole model against Hugging Face's GPT-2, Llama and NanoChat: logits, loss and every gradient, in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm.config import ModelConfig, load_preset, resolve_model
from llm.config.resolve import head_width
from llm.interop.architectures import gpt2_settings, llama_settings, nanochat_settings, qwen3_settings
from llm.interop.weights import to_gpt2, to_llama, to_nanochat
from llm.model.transformer import Transformer
from tests.model.models_for_tests import GRADIENT_SHARE, built, largest_value, relative_error, tiny, tokens

transformers = pytest.importorskip("transformers")


class ExactAngles(nn.Module):
    """Llama's rotary tables in float64; the original ones are float32."""

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).double() / head_dim)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def llama(config: ModelConfig) -> nn.Module:
    settings = transformers.LlamaConfig(**llama_settings(config), attn_implementation="sdpa")
    theirs = transformers.LlamaForCausalLM(settings).double()
    theirs.model.rotary_emb = ExactAngles(config.d_model // config.n_head, config.rope_theta)
    for module in theirs.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":  # it always computes in float32
                setattr(module, name, nn.RMSNorm(config.d_model, eps=config.norm_eps, dtype=torch.float64))
    return theirs


def qwen3(config: ModelConfig) -> nn.Module:
    settings = transformers.Qwen3Config(**qwen3_settings(config), attn_implementation="sdpa")
    theirs = transformers.Qwen3ForCausalLM(settings).double()
    theirs.model.rotary_emb = ExactAngles(head_width(config), config.rope_theta)
    for module in theirs.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "Qwen3RMSNorm":  # it always computes in float32
                setattr(module, name, nn.RMSNorm(child.weight.shape, eps=config.norm_eps, dtype=torch.float64))
    return theirs


def nanochat(config: ModelConfig) -> nn.Module:
    settings = transformers.NanoChatConfig(**nanochat_settings(config), attn_implementation="sdpa")
    return transformers.NanoChatForCausalLM(settings)


def exact_nanochat(config: Any) -> nn.Module:
    """NanoChat in float64; its original tables and norms are always float32."""
    theirs = nanochat(config).double()
    theirs.model.rotary_emb = ExactAngles(config.d_model // config.n_head, config.rope_theta)
    for module in theirs.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "NanoChatRMSNorm":
                head_dim = config.d_model // config.n_head
                width = head_dim if name in ("q_norm", "k_norm") else config.d_model
                setattr(module, name, nn.RMSNorm(width, eps=config.norm_eps, elementwise_affine=False))
    return theirs


def gpt2(config: ModelConfig) -> nn.Module:
    settings = transformers.GPT2Config(**gpt2_settings(config), attn_implementation="eager")
    return transformers.GPT2LMHeadModel(settings).double()


def compare(ours: Transformer, theirs: nn.Module, renamed: Any, absent: str = "nothing") -> None:
    """Assert equal logits, loss and gradients with equal weights.

    `absent`: how the names of those end that only theirs has; they must be 0 there.
    """
    missing, unexpected = theirs.load_state_dict(renamed(dict(ours.named_parameters())), strict=False)
    assert not unexpected
    assert all(name.endswith(absent) for name in missing)
    assert not any(weight.any() for name, weight in theirs.named_parameters() if name.endswith(absent))
    text = tokens(ours.config, time=11)
    inputs, targets = text[:, :-1], text[:, 1:]
    their_logits = theirs(inputs, use_cache=False).logits
    assert relative_error(ours(inputs), their_logits) < 1e-9
    their_loss = nn.functional.cross_entropy(their_logits.flatten(0, 1), targets.flatten())
    our_loss = ours.loss(inputs, targets)
    assert relative_error(our_loss, their_loss) < 1e-9
    our_loss.backward()
    their_loss.backward()
    gradients = renamed({name: weight.grad for name, weight in ours.named_parameters()})
    their_gradients = {name: weight.grad for name, weight in theirs.named_parameters() if not name.endswith(absent)}
    assert their_gradients.keys() <= gradients.keys()
    scale = GRADIENT_SHARE * largest_value(their_gradients.values())
    for name, gradient in their_gradients.items():
        assert relative_error(gradients[name], gradient, scale) < 1e-9, name


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_gpt2(kernels: str) -> None:
    config = tiny(n_kv_head=2, norm="layernorm", position="learned", mlp="gelu", bias=True, qkv_bias=True)
    compare(built(config, kernels=kernels), gpt2(config), to_gpt2)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("pairs", ["even-odd", "halves"])
@pytest.mark.parametrize("tied", [True, False])
def test_llama(pairs: str, tied: bool, kernels: str) -> None:
    config = tiny(d_model=24, n_head=6, n_kv_head=2, rope_pairs=pairs, tied_head=tied, rope_theta=997.0)
    compare(
        built(config, kernels=kernels),
        llama(config),
        lambda weights: to_llama(weights, config),
    )


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("pairs", ["even-odd", "halves"])
def test_qwen3(pairs: str, kernels: str) -> None:
    """Heads wider than d_model / n_head, and gains of queries and keys before the rotation."""
    config = tiny(d_model=21, n_head=6, n_kv_head=2, head_dim=10, qk_norm=True, qk_gain=True, rope_pairs=pairs)
    compare(built(config, kernels=kernels), qwen3(config), lambda weights: to_llama(weights, config))


def shrunk(preset: str, **shape: int) -> ModelConfig:
    """The model of a preset with another shape and without dropout, whose random numbers differ."""
    model = replace(load_preset(preset, Path("nowhere")).model, n_layer=2, context=13, vocab_size=31, dropout=0.0)
    return resolve_model(replace(model, d_ff=0, **shape), 31)


@pytest.mark.parametrize("preset", ["gpt2-124m", "gpt2-124m-stable"])
def test_the_gpt2_presets_are_gpt2_without_biases_of_q_k_and_v(preset: str) -> None:
    config = shrunk(preset, d_model=20, n_head=2)
    compare(built(config), gpt2(config), to_gpt2, absent="attn.c_attn.bias")


@pytest.mark.parametrize("preset", ["tinystories-llama", "cs336-assignment", "cs336-lecture"])
def test_the_llama_presets_are_llama(preset: str) -> None:
    keys = {"n_kv_head": 4} if preset == "tinystories-llama" else {}
    config = shrunk(preset, d_model=48, n_head=8, **keys)
    assert config.n_kv_head == (4 if keys else 8)
    compare(built(config), llama(config), lambda weights: to_llama(weights, config))


@pytest.mark.parametrize("n_kv_head", [0, 1])
@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_the_nanochat_preset_is_nanochat(kernels: str, n_kv_head: int) -> None:
    config = shrunk("nanochat-base", depth=0, d_model=24, n_head=3, n_kv_head=n_kv_head)
    model = built(config, kernels=kernels)
    compare(model, exact_nanochat(config), to_nanochat)


@torch.no_grad()
def test_nanochat_weights_in_float32() -> None:
    """The unmodified model of transformers with its initial weights: equal logits."""
    config = shrunk("nanochat-base", depth=0, d_model=64, n_head=2)
    torch.manual_seed(8)
    theirs = nanochat(config).eval()
    weights = theirs.state_dict()
    names = to_nanochat({name: torch.empty(0) for name in Transformer(config).state_dict()})
    ours = Transformer(config)
    mine = to_nanochat(ours.state_dict())
    assert weights.keys() == names.keys()
    for name, weight in mine.items():
        weight.copy_(weights[name] * (10 if name.endswith(("fc1.weight", "lm_head.weight")) else 1))
        weights[name].copy_(weight)
    text = tokens(config, time=13)
    expected = theirs(text, use_cache=False).logits
    assert expected.abs().max() > 1, "large enough for the cap to matter"
    difference = ours.eval()(text) - expected
    assert difference.abs().max() <= 1e-5
