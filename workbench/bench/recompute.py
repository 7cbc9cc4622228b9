"""Memory and time of activation recomputation (`train.recompute`) on six GPT-2 blocks."""

from __future__ import annotations

import time
from dataclasses import asdict

import torch
from torch import Tensor

from llm.config import ModelConfig, resolve_model
from llm.model.counts import Recompute
from llm.model.transformer import Transformer
from workbench.bench.report import Result, Stats, alternate, ratios

VOCABULARY, ROWS = 1024, 2
SHAPE = ModelConfig(n_layer=6, d_model=256, n_head=4, context=512, dropout=0.0)
KINDS: tuple[Recompute, ...] = ("none", "attention", "blocks")


def measure_recompute(pairs: int) -> Result:
    """Bytes that autograd saves for the backward pass, and CPU time of a forward and a backward pass, for `attention`
    and `blocks`, relative to `none`."""
    config = resolve_model(SHAPE, VOCABULARY)
    models = {kind: build(config, kind) for kind in KINDS}
    tokens = torch.randint(0, VOCABULARY, (ROWS, config.context + 1), generator=torch.Generator().manual_seed(1))
    seconds: dict[Recompute, list[float]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        cpu_seconds(models[kind], tokens)  # warm-up
    for kind in alternate(KINDS, pairs):
        seconds[kind].append(cpu_seconds(models[kind], tokens))
    saved = {kind: saved_bytes(models[kind], tokens) for kind in KINDS}
    result: Result = {}
    for kind in KINDS[1:]:
        result[f"{kind}_kept"] = saved[kind] / saved["none"]
        result[f"{kind}_processor_time"] = asdict(Stats.of(ratios(seconds[kind], seconds["none"])))
    return result


def build(config: ModelConfig, kind: Recompute) -> Transformer:
    model = Transformer(config, recompute=kind)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def cpu_seconds(model: Transformer, tokens: Tensor) -> float:
    began = time.process_time()
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    return time.process_time() - began


def saved_bytes(model: Transformer, tokens: Tensor) -> int:
    """Bytes of the tensors that autograd saves for the backward pass of the blocks, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        hidden = model.hidden(tokens[:, :-1])
    del hidden
    return sum(saved.values())
