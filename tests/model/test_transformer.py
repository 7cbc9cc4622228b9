"""The transformer's options, state dict, initialization, autocast and compilation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llm.config.schema import ModelConfig
from llm.model.transformer import Transformer
from tests.model.models_for_tests import (
    BATCH,
    GRADIENT_SHARE,
    TIME,
    built,
    largest_value,
    relative_error,
    tiny,
    tokens,
)

OPTIONS = [
    dict(zip(("norm", "position", "mlp", "bias", "qkv_bias", "tied_head"), values, strict=True))
    for values in itertools.product(
        ["rmsnorm", "layernorm"], ["rope", "learned"], ["swiglu", "gelu", "relu2"], [True, False], [True, False], [True]
    )
] + [
    {"tied_head": False, "qk_norm": True, "norm_gain": False, "softcap": 3.0, "embedding_norm": True, "mlp": "relu2"},
    {"norm": "layernorm", "norm_gain": False, "bias": True, "embedding_norm": True, "rope_pairs": "halves"},
    {"embedding_conv": 4, "embedding_norm": True},
    {"n_kv_head": 2, "softcap": 0.5, "mlp": "gelu-exact", "rope_inverse": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(f"{value}" for value in options.values()))
def test_reference_and_fused_models_are_equal(options: dict[str, object]) -> None:
    config = tiny(**options)
    inputs, targets = tokens(config), tokens(config, seed=12)
    results = []
    for kernels in ("reference", "fused"):
        model = built(config, kernels=kernels)
        loss = model.loss(inputs, targets)
        loss.backward()
        results.append([model(inputs), loss, *(parameter.grad for parameter in model.parameters())])
    scale = GRADIENT_SHARE * largest_value(results[1][2:])
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b, scale) < 1e-9


@pytest.mark.parametrize("options", OPTIONS[-3:])
def test_attention_is_causal(options: dict[str, object]) -> None:
    model = built(tiny(**options))
    text = tokens(model.config)
    changed = text.clone()
    changed[:, 4] = (changed[:, 4] + 1) % model.config.vocab_size
    before, after = model(text), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_state_dict_holds_only_weights() -> None:
    block = {
        "attn_norm.gain",
        "attn.q.weight",
        "attn.k.weight",
        "attn.v.weight",
        "attn.out.weight",
        "mlp_norm.gain",
        "mlp.up.weight",
        "mlp.gate.weight",
        "mlp.down.weight",
    }
    names = {f"blocks.{layer}.{name}" for layer in range(2) for name in block}
    names |= {"embedding.weight", "final_norm.gain"}
    assert set(Transformer(tiny()).state_dict()) == names
    assert set(Transformer(tiny(tied_head=False)).state_dict()) == names | {"head.weight"}
    learned = tiny(position="learned", embedding_norm=True)
    assert set(Transformer(learned).state_dict()) == names | {"position.weight", "embedding_norm.gain"}


def test_shapes() -> None:
    model = built(tiny())
    assert model(tokens(model.config)).shape == (BATCH, TIME, 31)
    assert model(tokens(model.config), last_only=True).shape == (BATCH, 1, 31)
    assert model.hidden(tokens(model.config)).shape == (BATCH, TIME, 20)
    assert relative_error(model(tokens(model.config), last_only=True), model(tokens(model.config))[:, -1:]) < 1e-12
    assert model.loss(tokens(model.config), tokens(model.config), "none").shape == (BATCH, TIME)


def test_softcap_bounds_the_logits() -> None:
    capped, free = built(tiny(softcap=0.5)), built(tiny())
    text = tokens(capped.config)
    assert torch.allclose(capped(text), 0.5 * torch.tanh(free(text) / 0.5))
    assert free(text).abs().max() > 1


def test_dropout_uses_the_default_generator_and_only_in_training() -> None:
    model = built(tiny(dropout=0.3))
    text = tokens(model.config)
    torch.manual_seed(1)
    first = model(text)
    torch.manual_seed(1)
    assert torch.equal(model(text), first)
    assert not torch.equal(model(text), first)
    model.eval()
    assert torch.equal(model(text), model(text))


@pytest.mark.parametrize(
    "config",
    [tiny(vocab_size=0), tiny(n_kv_head=0), tiny(d_model=21), tiny(n_head=3), tiny(d_model=6, n_head=2)],
)
def test_an_unresolved_configuration_is_an_error(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="model"):
        Transformer(config)


def test_a_text_longer_than_the_context_is_an_error() -> None:
    with pytest.raises(ValueError, match="14 positions exceed the model's context of 13"):
        built(tiny())(tokens(tiny(), time=14))


def initial(init: str, **changes: object) -> dict[str, torch.Tensor]:
    model = Transformer(tiny(d_model=120, n_layer=8, d_ff=331, vocab_size=409, init=init, **changes))
    model.init_weights(torch.Generator().manual_seed(3))
    return dict(model.state_dict())


def test_init_normal_and_residual_scaled() -> None:
    normal, scaled = initial("normal"), initial("residual-scaled", bias=True, norm="layernorm")
    for name in ("embedding.weight", "blocks.0.attn.q.weight", "blocks.7.mlp.down.weight", "blocks.7.attn.out.weight"):
        assert normal[name].std() == pytest.approx(0.02, rel=0.03)
    for name in ("embedding.weight", "blocks.0.attn.q.weight", "blocks.7.mlp.up.weight"):
        assert scaled[name].std() == pytest.approx(0.02, rel=0.03)
    for name in ("blocks.0.attn.out.weight", "blocks.7.mlp.down.weight"):
        assert scaled[name].std() == pytest.approx(0.02 / 4, rel=0.03)
    assert all(torch.equal(value, torch.ones(120)) for name, value in scaled.items() if name.endswith("gain"))
    assert not any(value.any() for name, value in scaled.items() if name.endswith("bias"))


def test_init_xavier_truncated() -> None:
    weights = initial("xavier-truncated", tied_head=False)
    shrunk = 0.98658  # standard deviation of a normal distribution cut at ±3
    for name, std in (
        ("blocks.0.attn.q.weight", math.sqrt(2 / (120 + 120))),
        ("blocks.3.mlp.up.weight", math.sqrt(2 / (120 + 331))),
        ("head.weight", math.sqrt(2 / (120 + 409))),
        ("embedding.weight", 1.0),
    ):
        assert weights[name].std() == pytest.approx(std * shrunk, rel=0.01)
        assert 2.8 * std < weights[name].abs().max() <= 3 * std * (1 + 1e-6)


def test_init_zero_output() -> None:
    weights = initial("zero-output", tied_head=False)
    assert not weights["head.weight"].any()
    assert not weights["blocks.0.attn.out.weight"].any()
    assert not weights["blocks.5.mlp.down.weight"].any()
    assert weights["embedding.weight"].std() == pytest.approx(1.0, rel=0.02)
    bound = math.sqrt(3 / 120)
    assert 0.99 * bound < weights["blocks.0.mlp.up.weight"].abs().max() <= bound


def test_init_zero_output_normal() -> None:
    """As nanochat's `_init_weights` of December 2025."""
    weights = initial("zero-output-normal", tied_head=False)
    assert not weights["head.weight"].any()
    assert not weights["blocks.0.attn.out.weight"].any()
    assert not weights["blocks.5.mlp.down.weight"].any()
    assert weights["embedding.weight"].std() == pytest.approx(1.0, rel=0.02)
    for name, std in (
        ("blocks.0.attn.q.weight", 120**-0.5),
        ("blocks.0.attn.k.weight", 120**-0.5 * math.sqrt(60 / 120)),  # a key head for two query heads: out < in
        ("blocks.0.mlp.up.weight", 120**-0.5),
    ):
        assert weights[name].std() == pytest.approx(std, rel=0.03)
        assert weights[name].abs().max() > 3 * std, "normal, not uniform"


@pytest.mark.parametrize("init", ["normal", "residual-scaled", "xavier-truncated", "zero-output", "zero-output-normal"])
def test_init_depends_only_on_its_generator(init: str) -> None:
    torch.manual_seed(1)
    first = initial(init)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = initial(init)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("options", OPTIONS[-3:])
def test_autocast_stays_near_float32(options: dict[str, object]) -> None:
    model = built(tiny(d_model=60, **options), spread=False).float()
    text = tokens(model.config)
    exact = model.loss(text, text)
    exact.backward()
    gradient = model.embedding.weight.grad
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(text, text)
        assert model(text).dtype == loss.dtype == torch.float32
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    assert relative_error(model.embedding.weight.grad, gradient) < 5e-2


def test_nothing_in_the_graph_depends_on_data() -> None:
    """The whole loss is one graph for torch.compile; the backend "eager" needs no compiler."""
    model = built(tiny())
    text = tokens(model.config)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)
    loss = compiled(text, text)
    loss.backward()
    gradient = model.blocks[0].attn.q.weight.grad.clone()
    model.zero_grad()
    plain = model.loss(text, text)
    plain.backward()
    assert relative_error(loss, plain) < 1e-9
    assert relative_error(gradient, model.blocks[0].attn.q.weight.grad) < 1e-9


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("options", OPTIONS[-3:])
@pytest.mark.filterwarnings("error")
def test_a_bfloat16_model_is_close_to_float64(options: dict[str, object], kernels: str) -> None:
    model = built(tiny(**options), kernels=kernels)
    text = tokens(model.config)
    exact = model(text)
    with torch.no_grad():
        assert relative_error(model.bfloat16()(text).double(), exact) < 0.1
