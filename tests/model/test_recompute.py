"""Recomputed activations: the same gradients, bit for bit, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.model.counts import Recompute, activation_bytes_per_token
from llm.model.transformer import Transformer
from tests.model.models_for_tests import built, tiny, tokens

BLOCKS_KEEP, ATTENTION_KEEPS = 0.35, 0.8  # at most this share of the activations


def loss_and_gradients(recompute: Recompute) -> tuple[torch.Tensor, list[torch.Tensor]]:
    config = tiny(dropout=0.2, n_layer=3)
    model = Transformer(config, recompute=recompute)
    model.load_state_dict(built(config).state_dict())
    ids = tokens(config)
    torch.manual_seed(3)
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("recompute", ["blocks", "attention"])
def test_gradients_with_dropout_are_equal(recompute: Recompute) -> None:
    loss, gradients = loss_and_gradients("none")
    again, recomputed = loss_and_gradients(recompute)
    assert torch.equal(loss, again)
    assert gradients
    assert all(map(torch.equal, gradients, recomputed))


def saved_bytes(recompute: Recompute, layers: int = 6) -> int:
    """Bytes that the blocks keep from the forward pass until the backward pass; weights are not counted."""
    config = tiny(n_layer=layers, d_model=64, n_head=4, n_kv_head=4, d_ff=256, context=128)
    model = Transformer(config, recompute=recompute)
    model.load_state_dict(built(config).state_dict())
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(4, 128, 64, requires_grad=True)
    alive = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for block in model.blocks:
            x = block(x, model.rotary, None)
            alive.append(x)
    return sum(kept.values())


def test_recomputed_blocks_keep_little() -> None:
    kept = saved_bytes("none")
    assert saved_bytes("blocks") <= BLOCKS_KEEP * kept
    assert saved_bytes("attention") <= ATTENTION_KEEPS * kept


def test_the_last_block_is_not_recomputed() -> None:
    """Its backward pass is the first, when nothing has been freed: computing it again would save no memory."""
    assert saved_bytes("blocks", layers=1) == saved_bytes("attention", layers=1) == saved_bytes("none", layers=1)


def test_the_estimate_knows_what_is_recomputed() -> None:
    config = replace(tiny(n_layer=12, d_model=768, n_head=12, n_kv_head=12), d_ff=3072)
    none, attention, blocks = (
        activation_bytes_per_token(config, 1024, "fp32", r) for r in ("none", "attention", "blocks")
    )
    assert blocks < 0.35 * none < attention < none
