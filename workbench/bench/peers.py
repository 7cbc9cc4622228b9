"""transformers and nanoGPT with the weights of our model: what `bench train` and `bench decode` compare with."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.interop.architectures import gpt2_settings, llama_settings, nanogpt_settings
from llm.interop.weights import to_gpt2, to_llama, to_nanogpt
from llm.model.transformer import Transformer
from workbench.bench.report import Result, device_name, machine

LLAMA_10M = ModelConfig(
    n_layer=6, d_model=320, n_head=5, n_kv_head=5, d_ff=864, context=1024, vocab_size=8192,
    norm="rmsnorm", norm_eps=1e-5, position="rope", rope_pairs="halves", mlp="swiglu", tied_head=True,
)  # fmt: skip
GPT2_124M = ModelConfig(
    n_layer=12, d_model=768, n_head=12, n_kv_head=12, d_ff=3072, context=1024, vocab_size=50257,
    norm="layernorm", norm_eps=1e-5, position="learned", mlp="gelu", bias=True, qkv_bias=True, tied_head=True,
)  # fmt: skip
SIZES = {"10M": LLAMA_10M, "124M": GPT2_124M}


def import_transformers() -> Any:
    """Import transformers. Raises UserError if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "This benchmark compares with transformers, which is not installed; pip install 'llm-workbench[dev]'."
        ) from error
    transformers.logging.set_verbosity_error()
    return transformers


def peer_machine(device: str, **facts: Any) -> Result:
    """Versions and hardware. Raises UserError if transformers is not installed."""
    import_transformers()
    return machine("torch", "transformers", device=device_name(device), **facts)


def transformers_model(model: Transformer) -> Any:
    """transformers' GPT-2 or Llama with the shape and the weights of `model`, on its device, in evaluation mode."""
    transformers = import_transformers()
    c, weights = model.config, model.state_dict()
    if model.rotary is not None:
        peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama_settings(c)))
        peer.load_state_dict(to_llama(weights, c))
    else:
        peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2_settings(c)))
        peer.load_state_dict(to_gpt2(weights))
    return peer.to(model.head_weight.device).eval()


def nanogpt_model(model: Transformer, folder: Path) -> nn.Module:
    """nanoGPT's GPT with the shape and the weights of `model`, from `model.py` of its checkout in `folder`."""
    source = nanogpt_source(folder)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its size
        peer: nn.Module = source.GPT(source.GPTConfig(**nanogpt_settings(model.config)))
    peer.load_state_dict(to_nanogpt(model.state_dict()))
    return peer.to(model.head_weight.device).train()


def nanogpt_source(folder: Path) -> ModuleType:
    """nanoGPT's module `model`, imported from `folder`. Raises UserError if it is missing or is not nanoGPT's."""
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
    """AdamW as nanoGPT configures it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return model.configure_optimizers(weight_decay, lr, betas, device.split(":")[0])
