"""Several documents in one row equal each document alone."""

from __future__ import annotations

import pytest
import torch

from llm.config.resolve import resolve_model
from llm.config.schema import ModelConfig
from llm.model.loss import linear_cross_entropy
from llm.model.transformer import Transformer

LENGTHS = (7, 1, 13, 5)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("conv", [0, 4])
@pytest.mark.parametrize(("position", "pairs"), [("rope", "even-odd"), ("rope", "halves"), ("learned", "halves")])
def test_a_packed_document_has_the_logits_of_the_same_document_alone(
    position: str, pairs: str, conv: int, kernels: str
) -> None:
    config = ModelConfig(
        n_layer=2,
        d_model=24,
        n_head=4,
        n_kv_head=2,
        context=29,
        embedding_conv=conv,
        position=position,
        rope_pairs=pairs,
        qk_norm=True,  # type: ignore[arg-type]
    )
    model = Transformer(resolve_model(config, 31), kernels=kernels).double()  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(1))
    tokens = torch.randint(0, 31, (2, 29))
    positions = torch.cat([torch.arange(length) for length in (*LENGTHS, 3)]).expand(2, -1)
    packed = model.logits(model.hidden(tokens, positions=positions))
    start = 0
    for length in LENGTHS:
        alone = model(tokens[:, start : start + length])
        assert (packed[:, start : start + length] - alone).abs().max() < 1e-12
        start += length
    other = tokens.clone()
    other[:, :7] = 0
    changed = model.logits(model.hidden(other, positions=positions))
    assert changed[:, 7:].equal(packed[:, 7:]), "nothing of another document is seen"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_of_targets_that_are_not_learned_is_exactly_zero(dtype: torch.dtype) -> None:
    hidden = torch.randn(3, 11, 8, requires_grad=True)
    weight = torch.randn(31, 8, requires_grad=True)
    targets = torch.randint(0, 31, (3, 11))
    masked = torch.rand(3, 11) < 0.5
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        linear_cross_entropy(hidden, weight, targets.masked_fill(masked, -1)).backward()
    assert hidden.grad is not None and (hidden.grad[masked] == 0).all() and (hidden.grad[~masked] != 0).any()
