"""Weights and settings of our models as transformers' GPT-2, Llama and NanoChat, and as nanoGPT's GPT.

Sources: transformers' modeling_gpt2.py, modeling_llama.py and modeling_nanochat.py; karpathy/nanoGPT's model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm.config.schema import ModelConfig

Weights = Mapping[str, Tensor]
"""Weights, or their gradients, by name."""

GPT2_NAMES = {
    "embedding.weight": "transformer.wte.weight",
    "position.weight": "transformer.wpe.weight",
    "final_norm": "transformer.ln_f",
    "blocks": "transformer.h",
    "attn_norm": "ln_1",
    "attn.out": "attn.c_proj",
    "attn.qkv": "attn.c_attn",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "gain": "weight",
    "head.weight": "lm_head.weight",
}
LLAMA_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm": "model.norm",
    "blocks": "model.layers",
    "attn_norm": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "gain": "weight",
    "head.weight": "lm_head.weight",
}
NANOCHAT_NAMES = LLAMA_NAMES | {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}


def to_gpt2(weights: Weights) -> dict[str, Tensor]:
    """transformers' GPT-2: nanoGPT's names, but every matrix of a block is (in, out)."""
    return {name: value.T if is_transposed(name) else value for name, value in to_nanogpt(weights).items()}


def is_transposed(name: str) -> bool:
    """Whether transformers' GPT-2 keeps this tensor as (in, out)."""
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def to_nanogpt(weights: Weights) -> dict[str, Tensor]:
    """nanoGPT's GPT, in which queries, keys and values are one layer."""
    joined = dict(weights)
    for name in [name for name in weights if ".attn.q." in name]:
        parts = [joined.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        joined[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return rename(joined, GPT2_NAMES)


def to_llama(weights: Weights, config: ModelConfig) -> dict[str, Tensor]:
    """transformers' Llama, in which the coordinates i and i + head_dim/2 of a head rotate together."""
    ordered = dict(weights)
    if config.rope_pairs == "even-odd":
        for name in weights:
            if name.endswith((".attn.q.weight", ".attn.k.weight")):
                heads = ordered[name].view(-1, config.d_model // config.n_head // 2, 2, config.d_model)
                ordered[name] = heads.transpose(1, 2).reshape(ordered[name].shape)
    return rename(ordered, LLAMA_NAMES)


def to_nanochat(weights: Weights) -> dict[str, Tensor]:
    """transformers' NanoChat."""
    return rename(weights, NANOCHAT_NAMES)


def rename(weights: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    """`weights` with every part of a name replaced as `names` says. A tied head is the embedding."""
    renamed = {"lm_head.weight": weights["embedding.weight"]}
    for name, value in weights.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


def gpt2_settings(c: ModelConfig) -> dict[str, Any]:
    """Arguments of transformers' GPT2Config."""
    return {
        "vocab_size": c.vocab_size,
        "n_positions": c.context,
        "n_embd": c.d_model,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_inner": c.d_ff,
        "layer_norm_epsilon": c.norm_eps,
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def nanogpt_settings(c: ModelConfig) -> dict[str, Any]:
    """Arguments of nanoGPT's GPTConfig."""
    return {
        "block_size": c.context,
        "vocab_size": c.vocab_size,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.d_model,
        "dropout": c.dropout,
        "bias": c.bias,
    }


def llama_settings(c: ModelConfig) -> dict[str, Any]:
    """Arguments of transformers' LlamaConfig."""
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "tie_word_embeddings": c.tied_head,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def nanochat_settings(c: ModelConfig) -> dict[str, Any]:
    """Arguments of transformers' NanoChatConfig."""
    return llama_settings(c) | {"final_logit_softcapping": c.softcap}
