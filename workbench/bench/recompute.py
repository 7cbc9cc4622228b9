"""Memory and time of recomputed activations (`train.recompute`), on six blocks of GPT-2's kind."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import torch
from torch import Tensor

from llm.config import ModelConfig, resolve_model
from llm.model.counts import Recompute
from llm.model.transformer import Transformer
from workbench.bench.report import Result, Speed

VOCABULARY, ROWS = 1024, 2
SHAPE = ModelConfig(n_layer=6, d_model=256, n_head=4, context=512, dropout=0.0)
KINDS: tuple[Recompute, ...] = ("none", "attention", "blocks")


def measure_recompute(pairs: int) -> Result:
    """Of `attention` and `blocks`, relative to `none`: bytes that autograd keeps between the two passes, and processor
    time of a forward and a backward pass, measured in turns."""
    config = resolve_model(replace(SHAPE), VOCABULARY)
    models = {kind: build(config, kind) for kind in KINDS}
    tokens = torch.randint(0, VOCABULARY, (ROWS, config.context + 1), generator=torch.Generator().manual_seed(1))
    seconds: dict[Recompute, list[float]] = {kind: [] for kind in KINDS}
    for pair in range(pairs + 1):
        for kind in KINDS if pair % 2 else reversed(KINDS):
            spent = processor_seconds(models[kind], tokens)
            if pair:  # the first turn warms up
                seconds[kind].append(spent)
    kept = {kind: kept_bytes(models[kind], tokens) for kind in KINDS}
    result: Result = {}
    for kind in KINDS[1:]:
        result[f"{kind}_kept"] = kept[kind] / kept["none"]
        ratios = [one / plain for one, plain in zip(seconds[kind], seconds["none"], strict=True)]
        result[f"{kind}_processor_time"] = asdict(Speed.of(ratios))
    return result


def build(config: ModelConfig, kind: Recompute) -> Transformer:
    model = Transformer(config, recompute=kind)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def processor_seconds(model: Transformer, tokens: Tensor) -> float:
    began = time.process_time()
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    return time.process_time() - began


def kept_bytes(model: Transformer, tokens: Tensor) -> int:
    """Bytes of the tensors that the blocks keep for the backward pass, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.hidden(tokens[:, :-1])
    del hidden
    return sum(kept.values())
