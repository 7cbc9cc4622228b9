"""Names and layouts of our weights in other programs: transformers, nanoGPT and nanochat.

Two steps, each with its inverse: `convert` moves weights between two configurations of one function (rotary pairs,
absent gains and biases, a tied head), and `to_names`/`from_names` rename, join and transpose them.

Sources: transformers' modeling_gpt2.py, modeling_llama.py, modeling_qwen3.py and modeling_nanochat.py; model.py of
karpathy/nanoGPT; gpt.py of karpathy/nanochat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.config.resolve import head_width
from llm.config.schema import ModelConfig
from llm.interop.architectures import GPT2, LLAMA, NANOCHAT, QWEN3
from llm.model.transformer import Transformer

Weights = Mapping[str, Tensor]
"""Weights, or their gradients, by name."""

HEAD, EMBEDDING = "head.weight", "embedding.weight"


@dataclass(frozen=True)
class Naming:
    """How another program names and stores weights.

    `parts` replace parts of our names. `transposed`: endings of names that it stores as (in, out). `joins_qkv`:
    queries, keys and values of equal width are one tensor.
    """

    parts: Mapping[str, str]
    transposed: tuple[str, ...] = ()
    joins_qkv: bool = False

    def name(self, ours: str) -> str:
        for part, theirs in self.parts.items():
            ours = ours.replace(part, theirs)
        return ours


GPT2_PARTS = {
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
LLAMA_PARTS = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm": "model.norm",
    "blocks": "model.layers",
    "attn_norm": "input_layernorm",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "attn.q.": "self_attn.q_proj.",
    "attn.k.": "self_attn.k_proj.",
    "attn.v.": "self_attn.v_proj.",
    "attn.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "gain": "weight",
    "head.weight": "lm_head.weight",
}
CHECKPOINT_PARTS = {
    "embedding.weight": "transformer.wte.weight",
    "blocks": "transformer.h",
    "attn.q.": "attn.c_q.",
    "attn.k.": "attn.c_k.",
    "attn.v.": "attn.c_v.",
    "attn.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "head.weight": "lm_head.weight",
}

NAMINGS = {
    GPT2.name: Naming(GPT2_PARTS, ("c_attn.weight", "c_proj.weight", "c_fc.weight"), joins_qkv=True),
    LLAMA.name: Naming(LLAMA_PARTS),
    QWEN3.name: Naming(LLAMA_PARTS),
    NANOCHAT.name: Naming(LLAMA_PARTS | {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}),
}
"""By the name of the architecture."""
NANOGPT_NAMING = Naming(GPT2_PARTS, joins_qkv=True)
NANOCHAT_CHECKPOINT_NAMING = Naming(CHECKPOINT_PARTS)


def to_names(weights: Weights, naming: Naming) -> dict[str, Tensor]:
    """Our weights under another program's names. The head of a tied model is the embedding."""
    joined = {HEAD: weights[EMBEDDING]} | dict(weights)
    if naming.joins_qkv:
        for name in [name for name in weights if ".attn.q." in name]:
            parts = [joined.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
            joined[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    renamed = {naming.name(name): value for name, value in joined.items()}
    return {name: value.T if name.endswith(naming.transposed) else value for name, value in renamed.items()}


def from_names(tensors: Weights, naming: Naming, names: Iterable[str]) -> dict[str, Tensor]:
    """The weights that we call `names`, from those of another program. KeyError for one that is missing."""
    weights = {}
    for name in names:
        part = "qkv".find(name.split(".attn.")[-1][0]) if naming.joins_qkv and is_projection(name) else -1
        theirs = naming.name(name.replace(f".attn.{'qkv'[part]}.", ".attn.qkv.") if part >= 0 else name)
        value = tensors[theirs].T if theirs.endswith(naming.transposed) else tensors[theirs]
        weights[name] = value.chunk(3)[part].contiguous() if part >= 0 else value.contiguous()
    return weights


def is_projection(name: str) -> bool:
    """Whether a weight or bias is that of queries, keys or values."""
    return any(f".attn.{part}." in name for part in "qkv")


def convert(weights: Weights, source: ModelConfig, target: ModelConfig) -> dict[str, Tensor]:
    """The weights of `source` in the layout of `target`, which computes the same function of tokens.

    Queries and keys are reordered and negated where the rotation differs. Gains of 1, biases of 0 and a head equal to
    the embedding are added or dropped; ValueError names a weight that cannot be dropped.
    """
    rotated = {name: rotate_rows(name, value, source, target) for name, value in weights.items()}
    shapes = weight_shapes(target)
    for name, value in rotated.items():
        if name not in shapes and not is_neutral(name, value, weights[EMBEDDING]):
            raise ValueError(f"{name} has no place in the other layout")
    added = {name: neutral(name, shape, weights[EMBEDDING]) for name, shape in shapes.items() if name not in rotated}
    return {name: (rotated | added)[name] for name in shapes}


def weight_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """The shape of every weight of a model, by name."""
    with torch.device("meta"):
        return {name: value.shape for name, value in Transformer(config).state_dict().items()}


def rotate_rows(name: str, rows: Tensor, source: ModelConfig, target: ModelConfig) -> Tensor:
    """The rows of queries or keys (or their bias or gain) for the rotary pairs and the direction of `target`.

    Negating the second coordinate of each pair turns a rotation by −θ into one by θ. A gain is not negated.
    """
    concerned = any(f".attn.{part}" in name for part in ("q.", "k.", "q_norm.", "k_norm."))
    if source.position != "rope" or not concerned:
        return rows
    halves = source.rope_pairs == "halves"
    pairs = rows.view(-1, *((2, head_width(source) // 2) if halves else (head_width(source) // 2, 2)), *rows.shape[1:])
    pairs = pairs if halves else pairs.transpose(1, 2)  # (heads, 2, head_dim/2, ...)
    if source.rope_inverse != target.rope_inverse and not name.endswith("gain"):
        first, second = pairs.unbind(1)
        pairs = torch.stack((first, -second), 1)
    return (pairs if target.rope_pairs == "halves" else pairs.transpose(1, 2)).reshape(rows.shape)


def neutral(name: str, shape: torch.Size, embedding: Tensor) -> Tensor:
    """The value of a weight that changes nothing where it is added."""
    if name == HEAD:
        return embedding
    return (torch.ones if name.endswith("gain") else torch.zeros)(shape, dtype=embedding.dtype, device=embedding.device)


def is_neutral(name: str, value: Tensor, embedding: Tensor) -> bool:
    """Whether dropping a weight changes nothing."""
    return (name == HEAD or name.endswith(("gain", "bias"))) and torch.equal(
        value, neutral(name, value.shape, embedding)
    )


def to_gpt2(weights: Weights) -> dict[str, Tensor]:
    """transformers' GPT-2: nanoGPT's names, but every matrix of a block is (in, out)."""
    return to_names(weights, NAMINGS[GPT2.name])


def to_nanogpt(weights: Weights) -> dict[str, Tensor]:
    """nanoGPT's GPT, in which queries, keys and values are one layer."""
    return to_names(weights, NANOGPT_NAMING)


def to_llama(weights: Weights, config: ModelConfig) -> dict[str, Tensor]:
    """transformers' Llama, in which the coordinates i and i + head_dim/2 of a head rotate together."""
    target = LLAMA.layout(config)
    rotated = {name: rotate_rows(name, value, config, target) for name, value in weights.items()}
    return to_names(rotated, NAMINGS[LLAMA.name])


def to_nanochat(weights: Weights) -> dict[str, Tensor]:
    """transformers' NanoChat."""
    return to_names(weights, NAMINGS[NANOCHAT.name])
