"""Names of the saved state, and states that do not match."""

from __future__ import annotations

import pytest
import torch

from llm.config.schema import ModelConfig, OptimConfig, RunConfig
from llm.errors import UserError
from llm.model.transformer import Transformer
from llm.optim import Optimizer, build_optimizer

MODEL = ModelConfig(n_layer=1, d_model=10, n_head=1, n_kv_head=1, d_ff=23, context=7, vocab_size=29)


def optimizer_of(kind: str) -> Optimizer:
    return build_optimizer(Transformer(MODEL), RunConfig(model=MODEL, optim=OptimConfig(kind=kind)))


def test_names() -> None:
    names = set(optimizer_of("muon").state_tensors())
    assert {
        "step",
        "muon.momentum.blocks.0.attn.q.weight",
        "adamw.m.embedding.weight",
        "adamw.v.final_norm.gain",
    } < names
    assert "adamw.m.blocks.0.attn.q.weight" not in names
    assert set(optimizer_of("sgd").state_tensors()) == {"step"}
    assert "adamw.m.blocks.0.attn.q.weight" in optimizer_of("adamw").state_tensors()


def test_a_state_that_does_not_match_is_an_error_and_changes_nothing() -> None:
    optimizer = optimizer_of("adamw")
    whole = {name: torch.ones_like(tensor) for name, tensor in optimizer.state_tensors().items()}
    name = "adamw.m.embedding.weight"
    lacking = {key: value for key, value in whole.items() if key != name}
    for state, message in (
        (lacking, f"it lacks {name}"),
        (whole | {"adamw.m.head.weight": torch.ones(1)}, "it has adamw.m.head.weight"),
        (whole | {name: torch.ones(3, 10)}, r"adamw.m.embedding.weight has the shape \(3, 10\) instead of \(29, 10\)"),
        (optimizer_of("muon").state_tensors(), "it lacks adamw.m.blocks"),
    ):
        with pytest.raises(UserError, match=message):
            optimizer.load_state_tensors(state)
        assert not any(tensor.any() for tensor in optimizer.state_tensors().values())
    optimizer.load_state_tensors(whole)
    assert all(tensor.all() for tensor in optimizer.state_tensors().values())
