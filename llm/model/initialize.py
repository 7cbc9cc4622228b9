"""Initial weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from llm.config.schema import ModelConfig
from llm.shards import copy_held

OUTPUT_PROJECTIONS = ("attn.out.weight", "mlp.down.weight")


@torch.no_grad()
def initialize_parameters(
    parameters: Iterable[tuple[str, nn.Parameter]], config: ModelConfig, generator: torch.Generator
) -> None:
    """Fill every parameter in place, in the given order, by the scheme `config.init`. Under every scheme gains start at
    1, biases at 0, and a convolution over the embeddings at ±1 at random, which adds earlier tokens at full magnitude.

    normal: N(0, init_std) for matrices and embeddings (GPT-2).
    residual-scaled: the same, but the projections into the residual stream (attention's and the feed-forward's last)
      with init_std/√(2·n_layer), so that its variance is independent of depth (Radford et al. 2019, section 2.3).
    xavier-truncated: matrices N(0, 2/(in+out)) cut at ±3σ, embeddings N(0, 1) cut at ±3 (CS336, assignment 1).
    zero-output: embeddings N(0, 1), matrices uniform in ±√3·d_model^−½ (standard deviation d_model^−½), output
      projections and an untied head 0, which makes every block the identity at first (nanochat since January 2026).
    zero-output-normal: the same, but matrices N(0, σ²) with σ = in^−½·min(1, √(out/in)) (nanochat before that; the rule
      is that of Yang et al. 2023, arXiv:2310.17813).
    """
    for name, parameter in parameters:
        if name.endswith("gain"):
            parameter.fill_(1.0)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            copy_held(parameter, initial_values(name, parameter.shape, config, generator))


def initial_values(name: str, shape: torch.Size, config: ModelConfig, generator: torch.Generator) -> Tensor:
    """Initial values of the matrix or embedding `name`: float32, on the CPU."""
    values = torch.empty(shape)
    if name == "embedding_conv.weight":
        return values.uniform_(-1.0, 1.0, generator=generator).sign_()
    is_embedding = name.startswith(("embedding.", "position."))
    is_output = name.endswith(OUTPUT_PROJECTIONS)
    if config.init == "xavier-truncated":
        std = 1.0 if is_embedding else math.sqrt(2 / (shape[0] + shape[1]))
        return truncated_normal_(values, std, 3.0, generator)
    if config.init in ("zero-output", "zero-output-normal"):
        if is_embedding:
            return values.normal_(0.0, 1.0, generator=generator)
        if is_output or name == "head.weight":
            return values.zero_()
        if config.init == "zero-output-normal":
            outputs, inputs = shape
            return values.normal_(0.0, min(1.0, math.sqrt(outputs / inputs)) / math.sqrt(inputs), generator=generator)
        bound = math.sqrt(3 / config.d_model)
        return values.uniform_(-bound, bound, generator=generator)
    shrink = math.sqrt(2 * config.n_layer) if config.init == "residual-scaled" and is_output else 1.0
    return values.normal_(0.0, config.init_std / shrink, generator=generator)


def truncated_normal_(values: Tensor, std: float, cut: float, generator: torch.Generator) -> Tensor:
    """Fill with N(0, std²) truncated at ±cut·std, by the inverse distribution function."""
    mass = math.erf(cut / math.sqrt(2))
    values.uniform_(-mass, mass, generator=generator)
    return values.erfinv_().mul_(std * math.sqrt(2)).clamp_(-cut * std, cut * std)
