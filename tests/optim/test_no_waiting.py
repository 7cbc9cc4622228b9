"""Clipping and every optimizer read no value back from the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm.config.schema import ModelConfig, OptimConfig, RunConfig
from llm.model.transformer import Transformer
from llm.optim import build_optimizer, clip_grad_norm

MODEL = ModelConfig(n_layer=1, d_model=10, n_head=1, n_kv_head=1, d_ff=23, context=7, vocab_size=29)
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}


class NothingIsRead(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in READS, f"{function} makes the host wait"
        return function(*args, **(kwargs or {}))


# CS336's AdamW on whole lists is left out: the CPU's kernel of its addition reads its own scalar, CUDA's does not.
@pytest.mark.parametrize(
    ("options", "fused"),
    [(kind, fused) for kind in ({"kind": "adamw"}, {"kind": "sgd"}, {"kind": "muon"}) for fused in ("on", "off")]
    + [({"kind": "adamw", "eps_inside": True, "decay_after": True}, "off")],
)
def test_a_step_does_not_synchronize(options: dict[str, Any], fused: str) -> None:
    model = Transformer(MODEL)
    model.init_weights(torch.Generator().manual_seed(1))
    optimizer = build_optimizer(model, RunConfig(model=MODEL, optim=OptimConfig(fused=fused, **options)))  # type: ignore[arg-type]
    text = torch.arange(14).view(2, 7)
    model.loss(text, text).backward()
    before = [parameter.clone() for parameter in model.parameters()]
    with NothingIsRead():
        norm = clip_grad_norm(model.parameters(), 0.1)
        optimizer.step(0.5, torch.isfinite(norm))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(AssertionError, match="makes the host wait"), NothingIsRead():
        norm.item()
