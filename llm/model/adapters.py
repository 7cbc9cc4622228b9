"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): adapters of low rank, trained instead of the weights.

The matrix W (out, in) of a layer becomes W + α/r · BA with A (r, in) and B (out, r). A is random and B zero at first,
so that an adapter changes nothing before the first step. The rows of new special tokens, which the base model does not
know, are trained too (as `trainable_token_indices` of peft).
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
    """Adapters and trained rows that change nothing: A uniform in ±1/√in, as in peft, B zero, the rows of `weights`.
    float32, on the CPU."""
    generator, rows = torch.Generator().manual_seed(seed), lora_of(tune, vocab_size).rows
    found = {}
    for name, (outputs, inputs) in adapted_matrices(config, tune).items():
        bound = 1 / math.sqrt(inputs)
        found[name + A] = torch.empty(tune.lora_rank, inputs).uniform_(-bound, bound, generator=generator)
        found[name + B] = torch.zeros(outputs, tune.lora_rank)
    for name in VOCABULARY_WEIGHTS:
        if name in weights and tune.lora_rows:
            found[name.removesuffix(".weight") + ROWS] = weights[name][rows].detach().cpu().clone()
    return found


def lora_of(tune: TuneConfig, vocab_size: int) -> Lora:
    """How the adapters of `tune` change a model whose tokenizer has `vocab_size` ids: the last rows are trained."""
    return Lora(tune.lora_alpha / tune.lora_rank, slice(vocab_size - tune.lora_rows, vocab_size))


def add_adapters(model: Transformer, tune: TuneConfig, vocab_size: int, seed: int) -> None:
    """Freeze the weights of `model`, and add the adapters and the rows of `tune`, which alone are trained."""
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
    """What training changes and a checkpoint holds, by name: all weights, or only the adapters."""
    if model.lora is None:
        return model.state_dict()
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def merged_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights of a model without adapters that computes the same; the tensors of `model` where they are equal."""
    weights = model.state_dict()
    if model.lora is None:
        return weights
    trained = trained_weights(model)
    return merge({name: value for name, value in weights.items() if name not in trained}, trained, model.lora)


@torch.no_grad()
def merge(base: Mapping[str, Tensor], trained: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """`base` with W + scale · BA for each adapted matrix W, computed in float64, and with the trained rows. `base` is
    not changed."""
    merged = dict(base)
    for name, value in trained.items():
        if name.endswith(A):
            weight, b = f"{name.removesuffix(A)}.weight", trained[name.removesuffix(A) + B]
            merged[weight] = (base[weight] + lora.scale * (wide(b) @ wide(value))).to(base[weight].dtype)
        elif name.endswith(ROWS):
            weight = f"{name.removesuffix(ROWS)}.weight"
            merged[weight] = base[weight].clone()
            merged[weight][lora.rows] = value
    return merged


def wide(tensor: Tensor) -> Tensor:
    """In float64, which MPS lacks."""
    return tensor.double() if tensor.device.type != "mps" else tensor
