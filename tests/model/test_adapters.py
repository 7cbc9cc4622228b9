"""LoRA: the logits and gradients of peft, frozen weights, merging, counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from llm.config import RunConfig, resolve_model
from llm.config.schema import ModelConfig, TrainConfig
from llm.config.tune_schema import TuneConfig
from llm.model.adapters import add_adapters, merged_weights, trained_weights
from llm.model.counts import parameters, trained_parameters, training_bytes
from llm.model.transformer import Transformer
from llm.optim import build_optimizer
from workbench.bench.peers import transformers_model

VOCAB_SIZE, NEW_TOKENS = 61, 3
SHAPE = ModelConfig(n_layer=2, d_model=24, n_head=6, n_kv_head=2, d_ff=44, context=32, rope_pairs="halves")
GELU = replace(SHAPE, mlp="gelu", tied_head=False, bias=True, qkv_bias=True, norm="layernorm", position="learned")
PEFT_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def base_model(shape: ModelConfig = SHAPE, **more: Any) -> Transformer:
    model = Transformer(resolve_model(shape, VOCAB_SIZE), **more)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def adapted(tune: TuneConfig, shape: ModelConfig = SHAPE, *, moved: bool = True, **more: Any) -> Transformer:
    """A model with adapters, changed as by training if `moved`."""
    model = base_model(shape, **more)
    add_adapters(model, tune, VOCAB_SIZE - 5, seed=2)  # 5 rows of the embedding belong to no token
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained_weights(model).values():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1 * moved)
    return model


def some_tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (3, 17), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("matrices", ["all", "query-value"])
def test_logits_and_gradients_are_those_of_peft(matrices: str) -> None:
    from peft import LoraConfig, get_peft_model

    tune = TuneConfig(lora_rank=5, lora_alpha=15.0, lora_matrices=matrices)  # type: ignore[arg-type]
    ours = adapted(tune)
    targets = [name.rpartition(".")[2] for name in PEFT_NAMES.values()] if matrices == "all" else ["q_proj", "v_proj"]
    settings = LoraConfig(r=5, lora_alpha=15, target_modules=targets, lora_dropout=0.0, bias="none")
    theirs = get_peft_model(transformers_model(base_model()), settings)
    named, pairs = dict(theirs.named_parameters()), {}
    for name, weight in ours.named_parameters():
        if weight.requires_grad:
            _, layer, _, module, _, part = name.split(".")
            prefix = f"base_model.model.model.layers.{layer}.{PEFT_NAMES[module]}.lora_{part.upper()}.default.weight"
            pairs[name] = (weight, named[prefix])
            named[prefix].data.copy_(weight)
    assert len(pairs) == sum(weight.requires_grad for weight in named.values())
    tokens = some_tokens()
    theirs_logits = theirs(tokens[:, :-1]).logits
    assert (ours(tokens[:, :-1]) - theirs_logits).abs().max() < 1e-5
    torch.nn.functional.cross_entropy(theirs_logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    ours.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    for name, (mine, other) in pairs.items():
        assert mine.grad is not None and other.grad is not None
        assert (mine.grad - other.grad).abs().max() < 1e-5, name


@pytest.mark.parametrize("shape", [SHAPE, GELU])
@pytest.mark.parametrize("matrices", ["all", "attention", "query-value", "mlp"])
def test_adapters_change_nothing_at_first_and_merge_exactly(shape: ModelConfig, matrices: str) -> None:
    tune = TuneConfig(lora_rank=5, lora_matrices=matrices, lora_rows=NEW_TOKENS)  # type: ignore[arg-type]
    tokens = some_tokens()
    with torch.no_grad():
        assert adapted(tune, shape, moved=False)(tokens).equal(base_model(shape)(tokens))
        model, merged = adapted(tune, shape), base_model(shape)
        merged.load_state_dict(merged_weights(model))
        assert (model(tokens) - merged(tokens)).abs().max() < 1e-5
        assert (model(tokens) - base_model(shape)(tokens)).abs().max() > 0.01
    weights = base_model(shape).state_dict()
    assert all(weights[name].equal(value) for name, value in model.state_dict().items() if name in weights)
    changed = merged.state_dict()["embedding.weight"] != weights["embedding.weight"]
    assert changed.any(1).nonzero().flatten().tolist() == [VOCAB_SIZE - 5 - NEW_TOKENS + row for row in range(3)]


@pytest.mark.parametrize("recompute", ["none", "blocks", "attention"])
@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_only_adapters_get_gradients_with_any_kernels_and_recomputation(recompute: str, kernels: str) -> None:
    tune, tokens = TuneConfig(lora_rank=5, lora_rows=NEW_TOKENS), some_tokens()
    expected, model = adapted(tune, GELU), adapted(tune, GELU, recompute=recompute, kernels=kernels)
    for each in (expected, model):
        each.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    for (name, weight), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert (weight.grad is None) == (not weight.requires_grad) == ("adapter" not in name and "rows" not in name)
        assert weight.grad is None or (weight.grad - other.grad).abs().max() < 1e-6  # type: ignore[operator]


@pytest.mark.slow
def test_compiled_gradients_are_those_of_eager_ones() -> None:
    tune, tokens = TuneConfig(lora_rank=5, lora_rows=NEW_TOKENS), some_tokens()
    expected, model = adapted(tune), adapted(tune)
    expected.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    torch.compile(model.loss, dynamic=False)(tokens[:, :-1], tokens[:, 1:]).backward()
    for weight, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert weight.grad is None or (weight.grad - other.grad).abs().max() < 1e-5  # type: ignore[operator]


@pytest.mark.parametrize("shape", [SHAPE, GELU])
@pytest.mark.parametrize("matrices", ["all", "attention", "query-value", "mlp"])
def test_counts_are_those_of_the_model(shape: ModelConfig, matrices: str) -> None:
    tune = TuneConfig(lora_rank=5, lora_matrices=matrices, lora_rows=NEW_TOKENS)  # type: ignore[arg-type]
    model = adapted(tune, shape)
    trained = trained_parameters(model.config, tune)
    assert sum(trained.values()) == sum(weight.numel() for weight in trained_weights(model).values())
    assert parameters(model.config) == sum(weight.numel() for weight in base_model(shape).parameters())


@pytest.mark.parametrize(("kind", "slots"), [("adamw", 2), ("muon", 2), ("sgd", 0)])
def test_the_optimizer_holds_state_for_adapters_alone(kind: str, slots: int) -> None:
    tune = TuneConfig(lora_rank=5, lora_rows=NEW_TOKENS)
    config = RunConfig(train=TrainConfig(lr=0.01))
    config = replace(config, optim=replace(config.optim, kind=kind), tune=tune)
    model = adapted(tune)
    optimizer = build_optimizer(model, config)
    trained = trained_parameters(model.config, tune)
    assert {group.label: sum(map(torch.numel, group.weights)) for group in optimizer.groups} == {
        label: count for label, count in trained.items() if count
    }
    assert all(group.lr == 0.01 for group in optimizer.groups)
    numbers = sum(tensor.numel() for tensor in optimizer.state_tensors().values()) - 1
    assert numbers == slots * sum(trained.values())
    full = training_bytes(model.config, 1, 8, optimizer=kind)
    saved = (1 + slots) * (parameters(model.config) - sum(trained.values())) - sum(trained.values())
    if kind != "muon":  # whose matrices have one state tensor
        assert full - training_bytes(model.config, 1, 8, optimizer=kind, tune=tune) == 4 * saved
