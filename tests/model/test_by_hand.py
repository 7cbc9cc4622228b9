"""nanochat's model against a second implementation of its definition, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llm.model.transformer import Transformer
from tests.model.models_for_tests import built, relative_error, tiny, tokens

NANOCHAT = {
    "n_head": 2, "n_kv_head": 1, "norm_gain": False, "norm_eps": 1e-6, "embedding_norm": True, "rope_pairs": "halves",
    "qk_norm": True, "mlp": "relu2", "tied_head": False, "softcap": 15.0, "rope_theta": 10000.0, "init": "zero-output",
}  # fmt: skip


def normed(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def turned(x: Tensor) -> Tensor:
    """(B, T, head_dim): coordinate i with coordinate i + half, by the angle t/10000^(2i/head_dim)."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1]).double()[:, None] / 10000 ** (torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)


def by_hand(model: Transformer, text: Tensor) -> Tensor:
    weights = dict(model.named_parameters())
    x = normed(weights["embedding.weight"][text])
    length, head_dim = text.shape[1], model.config.d_model // model.config.n_head
    hidden_from = torch.ones(length, length).triu(1).bool()
    for layer in range(model.config.n_layer):
        w = {name: weights[f"blocks.{layer}.{name}.weight"].T for name in ("attn.q", "attn.k", "attn.v", "attn.out")}
        y = normed(x)
        key, value = normed(turned(y @ w["attn.k"])), y @ w["attn.v"]  # one head, which all queries share
        heads = []
        for query in (y @ w["attn.q"]).split(head_dim, -1):
            scores = normed(turned(query)) @ key.mT / math.sqrt(head_dim)
            heads.append(torch.softmax(scores.masked_fill(hidden_from, -torch.inf), -1) @ value)
        x = x + torch.cat(heads, -1) @ w["attn.out"]
        inner = (normed(x) @ weights[f"blocks.{layer}.mlp.up.weight"].T).clamp_min(0) ** 2
        x = x + inner @ weights[f"blocks.{layer}.mlp.down.weight"].T
    return 15 * torch.tanh(normed(x) @ weights["head.weight"].T / 15)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_nanochat(kernels: str) -> None:
    model = built(tiny(**NANOCHAT), kernels=kernels)
    text = tokens(model.config)
    expected = by_hand(model, text)
    assert expected.std() > 0.5, "large enough for the cap and the norms to matter"
    assert relative_error(model(text), expected) < 1e-9
    expected_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), text.flatten())
    assert relative_error(model.loss(text, text), expected_loss) < 1e-9
