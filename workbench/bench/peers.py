"""Models that others wrote, holding the weights of ours, ready to train: what `bench train` measures itself against."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from llm.errors import UserError
from llm.model.transformer import Transformer
from workbench.bench.twins import gpt2_twin, import_transformers, transformers_twin


def transformers_model(model: Transformer) -> nn.Module:
    """transformers' GPT-2 of `model`'s shape and weights, in training mode."""
    twin: nn.Module = transformers_twin(model)
    return twin.train()


def nanogpt_model(model: Transformer, folder: Path) -> nn.Module:
    """nanoGPT's GPT of `model`'s shape and weights, by the `model.py` of its checkout in `folder`, in training mode."""
    source = nanogpt_source(folder)
    c = model.config
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its size
        twin: nn.Module = source.GPT(
            source.GPTConfig(
                block_size=c.context,
                vocab_size=c.vocab_size,
                n_layer=c.n_layer,
                n_head=c.n_head,
                n_embd=c.d_model,
                dropout=c.dropout,
                bias=c.bias,
            )
        )
    _, weights = gpt2_twin(import_transformers(), model)
    own = twin.state_dict()
    for name, weight in weights.items():  # transformers keeps its matrices the other way round
        own[name].copy_(weight.t() if weight.shape != own[name].shape or is_projection(name) else weight)
    return twin.to(model.head_weight.device).train()


def is_projection(name: str) -> bool:
    """Whether transformers keeps this tensor as (inputs, outputs)."""
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def nanogpt_source(folder: Path) -> ModuleType:
    """nanoGPT's module `model`, run from `folder`. UserError where it is not there, or is something else."""
    path = folder / "model.py"
    if not path.is_file():
        raise UserError(
            f"--nanogpt: there is no {path}; give the folder of a checkout of nanoGPT, which holds model.py."
        )
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--nanogpt: {path} cannot be run ({error}); give an unchanged checkout of nanoGPT.") from error
    if not (hasattr(module, "GPT") and hasattr(module, "GPTConfig")):
        raise UserError(f"--nanogpt: {path} has no GPT and GPTConfig; give the folder of a checkout of nanoGPT.")
    return module


def nanogpt_optimizer(model: Any, lr: float, betas: tuple[float, float], weight_decay: float, device: str) -> Any:
    """AdamW as nanoGPT sets it up."""
    with contextlib.redirect_stdout(io.StringIO()):
        return model.configure_optimizers(weight_decay, lr, betas, device.split(":")[0])
