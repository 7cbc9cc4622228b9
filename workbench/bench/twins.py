"""Our models as transformers', with the same weights: what `llm-workbench bench decode` measures itself against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.model.transformer import Transformer

LLAMA_PARTS = {
    "attn_norm.gain": "input_layernorm.weight",
    "attn.q.weight": "self_attn.q_proj.weight",
    "attn.k.weight": "self_attn.k_proj.weight",
    "attn.v.weight": "self_attn.v_proj.weight",
    "attn.out.weight": "self_attn.o_proj.weight",
    "mlp_norm.gain": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
GPT2_PARTS = {
    "attn_norm.gain": "ln_1.weight",
    "attn_norm.bias": "ln_1.bias",
    "attn.out.weight": "attn.c_proj.weight",
    "attn.out.bias": "attn.c_proj.bias",
    "mlp_norm.gain": "ln_2.weight",
    "mlp_norm.bias": "ln_2.bias",
    "mlp.up.weight": "mlp.c_fc.weight",
    "mlp.up.bias": "mlp.c_fc.bias",
    "mlp.down.weight": "mlp.c_proj.weight",
    "mlp.down.bias": "mlp.c_proj.bias",
}


def transformers_twin(model: Transformer) -> Any:
    """transformers' GPT-2 or Llama with the weights of `model`, in evaluation mode, on the same device."""
    transformers = import_transformers()
    make = llama_twin if model.rotary is not None else gpt2_twin
    twin, weights = make(transformers, model)
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert not unexpected, unexpected
    twin.tie_weights()
    return twin.to(model.head_weight.device).eval()


def import_transformers() -> Any:
    """The package. UserError where it is missing: only measuring needs it."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "bench decode compares with transformers, which is not installed; pip install 'llm-workbench[dev]'."
        ) from error
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return transformers


def llama_twin(transformers: Any, model: Transformer) -> tuple[Any, dict[str, Tensor]]:
    """transformers' Llama of this shape, with its weights still to be filled in, and those weights."""
    c = model.config
    ours = model.state_dict()
    config = transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head,
        num_key_value_heads=c.n_kv_head,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    weights = {"model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["final_norm.gain"]}
    for layer in range(c.n_layer):
        for name, theirs in LLAMA_PARTS.items():
            weights[f"model.layers.{layer}.{theirs}"] = ours[f"blocks.{layer}.{name}"]
    return transformers.LlamaForCausalLM(config), weights


def gpt2_twin(transformers: Any, model: Transformer) -> tuple[Any, dict[str, Tensor]]:
    """transformers' GPT-2 likewise: its matrices are (inputs, outputs), and queries, keys and values are one."""
    c = model.config
    ours = model.state_dict()
    config = transformers.GPT2Config(
        vocab_size=c.vocab_size,
        n_embd=c.d_model,
        n_inner=c.d_ff,
        n_layer=c.n_layer,
        n_head=c.n_head,
        n_positions=c.context,
        resid_pdrop=c.dropout,
        embd_pdrop=c.dropout,
        attn_pdrop=c.dropout,
        bos_token_id=None,
        eos_token_id=None,
    )
    weights = {
        "transformer.wte.weight": ours["embedding.weight"],
        "transformer.wpe.weight": ours["position.weight"],
        "transformer.ln_f.weight": ours["final_norm.gain"],
        "transformer.ln_f.bias": ours["final_norm.bias"],
    }
    for layer in range(c.n_layer):
        block, theirs = f"blocks.{layer}.", f"transformer.h.{layer}."
        for kind in ("weight", "bias"):
            weights[f"{theirs}attn.c_attn.{kind}"] = torch.cat(
                [ours[f"{block}attn.{part}.{kind}"] for part in "qkv"]
            ).t()
        for name, other in GPT2_PARTS.items():
            weights[theirs + other] = ours[block + name].t()  # of a vector, itself
    return transformers.GPT2LMHeadModel(config), weights


LLAMA_10M = ModelConfig(
    n_layer=6, d_model=320, n_head=5, n_kv_head=5, d_ff=864, context=1024, vocab_size=8192,
    norm="rmsnorm", norm_eps=1e-5, position="rope", rope_pairs="halves", mlp="swiglu", tied_head=True,
)  # fmt: skip
GPT2_124M = ModelConfig(
    n_layer=12, d_model=768, n_head=12, n_kv_head=12, d_ff=3072, context=1024, vocab_size=50257,
    norm="layernorm", norm_eps=1e-5, position="learned", mlp="gelu", bias=True, qkv_bias=True, tied_head=True,
)  # fmt: skip
SIZES = {"10M": LLAMA_10M, "124M": GPT2_124M}
