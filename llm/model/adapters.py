"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): low-rank adapters, trained while the weights are frozen.

The matrix W (out, in) of a layer becomes W + α/r · BA with A (r, in) and B (out, r). A starts random and B zero, so the
model's output is unchanged before the first step. The embedding and head rows of new special tokens, which the base
model has not learned, are trained too (as with `trainable_token_indices` in peft).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from llm.config.schema import ModelConfig
from llm.config.tune_schema import TuneConfig
from llm.model.counts import adapted_matrices
from llm.model.layers import Adapter, Embedding, Linear, Lora, TrainedRows
from llm.model.transformer import Transformer

VOCABULARY_WEIGHTS = ("embedding.weight", "head.weight")
A, B, ROWS = ".adapter.a", ".adapter.b", ".rows.values"


def initial_values(
    config: ModelConfig, tune: TuneConfig, weights: Mapping[str, Tensor], vocab_size: int, seed: int
) -> dict[str, Tensor]:
    """Initial adapters and trained rows, by name, on the CPU: A uniform in ±1/√in (as in peft) and B zero, both
    float32, and copies of the rows of `weights`. They leave the model's output unchanged."""
    generator, rows = torch.Generator().manual_seed(seed), lora_of(tune, vocab_size).rows
    values = {}
    for name, (outputs, inputs) in adapted_matrices(config, tune).items():
        bound = 1 / math.sqrt(inputs)
        values[name + A] = torch.empty(tune.lora_rank, inputs).uniform_(-bound, bound, generator=generator)
        values[name + B] = torch.zeros(outputs, tune.lora_rank)
    for name in VOCABULARY_WEIGHTS:
        if name in weights and tune.lora_rows:
            values[name.removesuffix(".weight") + ROWS] = weights[name][rows].detach().cpu().clone()
    return values


def lora_of(tune: TuneConfig, vocab_size: int) -> Lora:
    """The scale α/r and the trained rows, the last `tune.lora_rows` of a vocabulary of `vocab_size` ids."""
    return Lora(tune.lora_alpha / tune.lora_rank, slice(vocab_size - tune.lora_rows, vocab_size))


def add_adapters(model: Transformer, tune: TuneConfig, vocab_size: int, seed: int) -> None:
    """Freeze the weights of `model` in place, and add trainable adapters and rows as `tune` says."""
    device, lora = model.head_weight.device, lora_of(tune, vocab_size)
    values = initial_values(model.config, tune, model.state_dict(), vocab_size, seed)
    values = {name: value.to(device) for name, value in values.items()}
    model.requires_grad_(False)
    model.lora = lora
    for name in adapted_matrices(model.config, tune):
        layer = model.get_submodule(name)
        assert isinstance(layer, Linear)
        layer.adapter = Adapter(values[name + A], values[name + B], lora.scale)
    for name in (name.removesuffix(ROWS) for name in values if name.endswith(ROWS)):
        layer = model.get_submodule(name)
        assert isinstance(layer, Linear | Embedding)
        layer.rows = TrainedRows(values[name + ROWS], lora.rows)


def trained_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights that training changes and a checkpoint stores, by name: all of them or, with LoRA, the adapters and
    trained rows. Detached, not copied."""
    if model.lora is None:
        return model.state_dict()
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def merged_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights of the equivalent model without adapters. Tensors that adapters do not change are not copied."""
    weights = model.state_dict()
    if model.lora is None:
        return weights
    trained = trained_weights(model)
    return merge({name: value for name, value in weights.items() if name not in trained}, trained, model.lora)


@torch.no_grad()
def merge(base: Mapping[str, Tensor], trained: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """`base` with W + scale · BA for each adapted matrix W, computed in float64 (float32 on MPS), and with the trained
    rows. `base` is not modified."""
    merged = dict(base)
    for name, value in trained.items():
        if name.endswith(A):
            weight, b = f"{name.removesuffix(A)}.weight", trained[name.removesuffix(A) + B]
            merged[weight] = (base[weight] + lora.scale * (to_float64(b) @ to_float64(value))).to(base[weight].dtype)
        elif name.endswith(ROWS):
            weight = f"{name.removesuffix(ROWS)}.weight"
            merged[weight] = base[weight].clone()
            merged[weight][lora.rows] = value
    return merged


def to_float64(tensor: Tensor) -> Tensor:
    """`tensor` in float64; unchanged on MPS, which lacks that dtype."""
    return tensor.double() if tensor.device.type != "mps" else tensor
