"""The architectures of transformers that our models can be: which fit, and their `config.json`. Does not import torch.

Each architecture holds a model in one layout (`layout`): for example Llama always has gains and rotates the coordinates
i and i + head_dim/2 together. `llm.interop.weights.convert` moves weights from one layout to another without changing
the function. Sources: transformers' configuration_gpt2.py, _llama.py, _qwen3.py and _nanochat.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm.config.resolve import head_width
from llm.config.schema import ModelConfig

Settings = dict[str, Any]
ACTIVATIONS = {"gelu": "gelu_new", "gelu-exact": "gelu", "relu2": "relu2"}
"""`model.mlp` -> transformers' name of the activation."""
READ_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu"}


@dataclass(frozen=True)
class Architecture:
    """`name` is the class in transformers, `has` the values that fields of `ModelConfig` may have in it."""

    name: str
    model_type: str
    has: Mapping[str, tuple[Any, ...]]
    layout: Callable[[ModelConfig], ModelConfig]
    settings: Callable[[ModelConfig], Settings]
    read: Callable[[Mapping[str, Any]], ModelConfig]
    needs_equal_heads: bool = False
    """Whether all heads have keys of their own, and the width of an attention head is d_model / n_head."""

    def misfits(self, config: ModelConfig) -> list[str]:
        """Why a resolved model is not of this architecture, one reason per field; empty if it is."""
        found = [
            f"model.{field} is {show(value)}, {self.name} has {' or '.join(map(show, allowed))}"
            for field, allowed in self.has.items()
            if (value := getattr(config, field)) not in allowed
        ]
        if self.needs_equal_heads and config.n_kv_head != config.n_head:
            found.append(f"model.n_kv_head is {config.n_kv_head}, {self.name} has as many key heads as query heads")
        if self.needs_equal_heads and head_width(config) * config.n_head != config.d_model:
            found.append(f"model.head_dim is {config.head_dim}, {self.name} has d_model / n_head")
        return found


def show(value: object) -> str:
    """A value of a field in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "off" if value == 0 else str(value)


def gpt2_layout(c: ModelConfig) -> ModelConfig:
    return replace(c, bias=True, qkv_bias=True, norm_gain=True, head_dim=0)


def llama_layout(c: ModelConfig) -> ModelConfig:
    biased = c.bias or c.qkv_bias
    return replace(c, bias=biased, qkv_bias=biased, norm_gain=True, rope_pairs="halves", rope_inverse=False)


def qwen3_layout(c: ModelConfig) -> ModelConfig:
    return replace(llama_layout(c), qk_gain=True)


def nanochat_layout(c: ModelConfig) -> ModelConfig:
    return replace(c, rope_pairs="halves", rope_inverse=True)


def gpt_sizes(c: ModelConfig) -> Settings:
    """The sizes by the names that GPT2Config, nanoGPT and nanochat share."""
    return {"vocab_size": c.vocab_size, "n_embd": c.d_model, "n_layer": c.n_layer, "n_head": c.n_head}


def read_gpt_sizes(s: Mapping[str, Any]) -> Settings:
    """Fields of `ModelConfig` from the names of `gpt_sizes`. KeyError for a missing one."""
    sizes = {"vocab_size": s["vocab_size"], "d_model": s["n_embd"], "n_layer": s["n_layer"], "n_head": s["n_head"]}
    return sizes | {"d_ff": 4 * s["n_embd"]}


def gpt2_settings(c: ModelConfig) -> Settings:
    """Arguments of transformers' GPT2Config."""
    return gpt_sizes(c) | {
        "n_positions": c.context,
        "n_inner": c.d_ff,
        "activation_function": ACTIVATIONS[c.mlp],
        "layer_norm_epsilon": c.norm_eps,
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
        "tie_word_embeddings": c.tied_head,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def nanogpt_settings(c: ModelConfig) -> Settings:
    """Arguments of nanoGPT's GPTConfig."""
    return gpt_sizes(c) | {"block_size": c.context, "dropout": c.dropout, "bias": c.bias}


def rotary_settings(c: ModelConfig) -> Settings:
    """The arguments that Llama, Qwen3 and NanoChat share. Token ids are stated as None: the defaults of transformers
    (5.24.0) are LlamaConfig's bos 1 and eos 2, and NanoChatConfig's pad = eos = 1."""
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "head_dim": head_width(c),
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "attention_dropout": c.dropout,
        "tie_word_embeddings": c.tied_head,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def llama_settings(c: ModelConfig) -> Settings:
    """Arguments of transformers' LlamaConfig."""
    return rotary_settings(c) | {"attention_bias": c.bias or c.qkv_bias, "mlp_bias": c.bias or c.qkv_bias}


def qwen3_settings(c: ModelConfig) -> Settings:
    """Arguments of transformers' Qwen3Config."""
    return rotary_settings(c) | {"attention_bias": False, "use_sliding_window": False}


def nanochat_settings(c: ModelConfig) -> Settings:
    """Arguments of transformers' NanoChatConfig."""
    softcap = c.softcap or None
    return rotary_settings(c) | {"hidden_act": ACTIVATIONS[c.mlp], "final_logit_softcapping": softcap}


def read_gpt2(s: Mapping[str, Any]) -> ModelConfig:
    """The model of a GPT2Config. KeyError and ValueError as `read_rotary`."""
    for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
        if s.get(name):
            raise ValueError(f"{name} is on, which this program does not have")
    if not s.get("scale_attn_weights", True):
        raise ValueError("scale_attn_weights is off, which this program does not have")
    sizes = read_gpt_sizes(s) | ({"d_ff": s["n_inner"]} if s.get("n_inner") else {})
    return ModelConfig(
        **sizes,
        n_kv_head=s["n_head"],
        context=s["n_positions"],
        norm="layernorm",
        norm_eps=s.get("layer_norm_epsilon", 1e-5),
        position="learned",
        mlp=read_activation(s.get("activation_function", "gelu_new")),
        bias=True,
        qkv_bias=True,
        tied_head=s.get("tie_word_embeddings", True),
        dropout=s.get("resid_pdrop", 0.1),
    )


def read_activation(name: str) -> Any:
    if name not in READ_ACTIVATIONS:
        raise ValueError(f"the activation {name} is not one of {', '.join(READ_ACTIVATIONS)}")
    return READ_ACTIVATIONS[name]


def read_rotary(s: Mapping[str, Any], activation: str) -> ModelConfig:
    """What Llama, Qwen3 and NanoChat share. KeyError for a missing setting, ValueError for one that we lack."""
    rope = s.get("rope_parameters") or {}
    scaling = s.get("rope_scaling") or {}
    kinds = [table[name] for table in (scaling, rope) for name in ("rope_type", "type") if table.get(name)]
    for kind in kinds:
        if kind != "default":
            raise ValueError(f"the positions are scaled by {kind} (rope_scaling), which this program does not have")
    part = rope.get("partial_rotary_factor") or s.get("partial_rotary_factor") or 1
    if part != 1:
        raise ValueError(f"only a part of each head is rotated (partial_rotary_factor {part}), which is not supported")
    if s.get("hidden_act", activation) != activation:
        raise ValueError(f"the activation is {s['hidden_act']}, not {activation}")
    layers = s.get("layer_types") or []
    if s.get("use_sliding_window") or any(layer != "full_attention" for layer in layers):
        raise ValueError("it attends within a sliding window, which this program does not have")
    heads, width = s["num_attention_heads"], s["hidden_size"]
    head_dim = s.get("head_dim") or width // heads
    return ModelConfig(
        n_layer=s["num_hidden_layers"],
        d_model=width,
        n_head=heads,
        n_kv_head=s.get("num_key_value_heads") or heads,
        head_dim=0 if head_dim * heads == width else head_dim,
        d_ff=s["intermediate_size"],
        context=s["max_position_embeddings"],
        vocab_size=s["vocab_size"],
        norm="rmsnorm",
        norm_eps=s.get("rms_norm_eps", 1e-6),
        position="rope",
        rope_theta=rope.get("rope_theta") or s.get("rope_theta") or 10000.0,
        rope_pairs="halves",
        tied_head=s.get("tie_word_embeddings", False),
        dropout=s.get("attention_dropout", 0.0),
    )


def read_llama(s: Mapping[str, Any]) -> ModelConfig:
    """The model of a LlamaConfig; biases that only a part of its layers has are on in all of ours."""
    biased = bool(s.get("attention_bias") or s.get("mlp_bias"))
    return replace(read_rotary(s, "silu"), mlp="swiglu", bias=biased, qkv_bias=biased)


def read_qwen3(s: Mapping[str, Any]) -> ModelConfig:
    if s.get("attention_bias"):
        raise ValueError("its attention has biases (attention_bias) and its feed-forward none")
    given = {"head_dim": 128} | dict(s)  # Qwen3Config's default
    return replace(read_rotary(given, "silu"), mlp="swiglu", qk_norm=True, qk_gain=True)


def read_nanochat(s: Mapping[str, Any]) -> ModelConfig:
    if s.get("attention_bias"):
        raise ValueError("its attention has biases (attention_bias) and its feed-forward none")
    activation = s.get("hidden_act", "relu2")
    return replace(
        read_rotary(s, activation),
        mlp=read_activation(activation),
        norm_gain=False,
        embedding_norm=True,
        qk_norm=True,
        rope_inverse=True,
        softcap=s.get("final_logit_softcapping", 15.0) or 0.0,
    )


def absent_biases(s: Mapping[str, Any]) -> tuple[str, ...]:
    """Parts of the names of biases that a Llama with biases in some of its layers only does not have."""
    attention, feed_forward = bool(s.get("attention_bias")), bool(s.get("mlp_bias"))
    return () if attention == feed_forward else ("mlp.",) if attention else ("self_attn.",)


PLAIN = {"qk_norm": (False,), "embedding_norm": (False,), "softcap": (0.0,)}
"""What GPT-2 and Llama do without."""
ROTARY = {"norm": ("rmsnorm",), "position": ("rope",)}

GPT2 = Architecture(
    "GPT2LMHeadModel",
    "gpt2",
    {"norm": ("layernorm",), "position": ("learned",), "mlp": tuple(ACTIVATIONS)} | PLAIN,
    gpt2_layout,
    gpt2_settings,
    read_gpt2,
    needs_equal_heads=True,
)
LLAMA = Architecture(
    "LlamaForCausalLM", "llama", ROTARY | {"mlp": ("swiglu",)} | PLAIN, llama_layout, llama_settings, read_llama
)
QWEN3 = Architecture(
    "Qwen3ForCausalLM",
    "qwen3",
    ROTARY | {"mlp": ("swiglu",)} | PLAIN | {"qk_norm": (True,), "bias": (False,), "qkv_bias": (False,)},
    qwen3_layout,
    qwen3_settings,
    read_qwen3,
)
NANOCHAT = Architecture(
    "NanoChatForCausalLM",
    "nanochat",
    ROTARY
    | {"mlp": tuple(ACTIVATIONS), "qk_norm": (True,), "qk_gain": (False,), "embedding_norm": (True,)}
    | {"norm_gain": (False,), "bias": (False,), "qkv_bias": (False,)},
    nanochat_layout,
    nanochat_settings,
    read_nanochat,
)
ARCHITECTURES = (GPT2, LLAMA, QWEN3, NANOCHAT)


def architecture_of(config: ModelConfig) -> Architecture | None:
    """The architecture that a resolved model is; None if it is none of them."""
    return next((kind for kind in ARCHITECTURES if not kind.misfits(config)), None)


def nearest_misfit(config: ModelConfig, kinds: tuple[Architecture, ...] = ARCHITECTURES) -> str:
    """Why a model is none of `kinds`: what keeps it from the nearest one; "" if it is one."""
    reasons = min((kind.misfits(config) for kind in kinds), key=len)
    return "; ".join(reasons)
