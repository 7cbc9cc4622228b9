"""AdamW, SGD and Muon against PyTorch's and against formulas, over 100 steps in float64."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm.config import check, fields_of
from llm.config.optimizers import OPTIMIZER_INFO, optimizer_of_group
from llm.config.schema import ModelConfig, OptimConfig, RunConfig, TrainConfig
from llm.model.counts import group_parameters
from llm.model.transformer import Transformer
from llm.optim import Group, Optimizer, build_optimizer
from llm.optim.muon import Muon, orthogonalize
from llm.optim.registry import OPTIMIZERS

STEPS = 100
LR = 3e-3
MODEL = ModelConfig(
    n_layer=2, d_model=10, n_head=1, n_kv_head=1, d_ff=23, context=7, vocab_size=29, tied_head=False, mlp="relu2"
)
IMPLEMENTATIONS = ("on", "off")
"""`optim.fused`: one operation for all tensors, and written out."""
BOTH = pytest.mark.parametrize("fused", IMPLEMENTATIONS)


def run_config(**optim: Any) -> RunConfig:
    return RunConfig(model=MODEL, optim=OptimConfig(**optim), train=TrainConfig(lr=LR))


def fresh() -> Transformer:
    model = Transformer(MODEL)
    model.init_weights(torch.Generator().manual_seed(4))
    return model.double()


def gradients(model: nn.Module) -> Iterator[None]:
    """Set random gradients of very different sizes before each step."""
    generator = torch.Generator().manual_seed(9)
    for step in range(STEPS):
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = noise * 10 ** (3 * math.sin(step))
        yield


def scale_at(step: int) -> float:
    return 1 / (1 + step / 50)


def trained(optimizer_of: Callable[[Transformer], Callable[[float], object]]) -> dict[str, Tensor]:
    model = fresh()
    step_by = optimizer_of(model)
    for step, _ in enumerate(gradients(model)):
        step_by(scale_at(step))
    return model.state_dict()


def ours(config: RunConfig) -> dict[str, Tensor]:
    return trained(lambda model: build_optimizer(model, config).step)


def torchs(*kinds: tuple[Callable[..., torch.optim.Optimizer], Callable[[str, Tensor], bool], dict[str, Any]]) -> Any:
    """Train with PyTorch's optimizers, each on the parameters that its condition selects."""

    def make(model: Transformer) -> Callable[[float], None]:
        made = [
            kind([p for name, p in model.named_parameters() if picks(name, p)], **options)
            for kind, picks, options in kinds
        ]
        peaks = [optimizer.param_groups[0]["lr"] for optimizer in made]

        def step(scale: float) -> None:
            for optimizer, peak in zip(made, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * scale
                optimizer.step()

        return step

    return trained(make)


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    start = fresh().state_dict()
    for name in a.keys() | b.keys():
        assert not torch.equal(a[name], start[name]), f"{name} did not move"
        assert float((a[name] - b[name]).abs().max() / b[name].abs().max()) < tolerance, name


def is_matrix(name: str, weight: Tensor) -> bool:
    return name.startswith("blocks.") and weight.ndim == 2


@pytest.mark.parametrize("beta1,beta2", [(0.9, 0.999), (0.8, 0.95), (0.0, 0.9)])
def test_adamw_equals_torch(beta1: float, beta2: float) -> None:
    options = {"lr": LR, "betas": (beta1, beta2), "eps": 1e-4}
    theirs = torchs(
        (torch.optim.AdamW, lambda name, weight: weight.ndim >= 2, options | {"weight_decay": 0.3}),
        (torch.optim.AdamW, lambda name, weight: weight.ndim < 2, options | {"weight_decay": 0.0}),
    )
    for fused in IMPLEMENTATIONS:
        assert_equal(ours(run_config(beta1=beta1, beta2=beta2, eps=1e-4, weight_decay=0.3, fused=fused)), theirs)


def test_adamw_with_decay_of_every_tensor() -> None:
    options = {"lr": LR, "betas": (0.9, 0.95), "weight_decay": 0.3}
    theirs = torchs((torch.optim.AdamW, lambda name, weight: True, options))
    for fused in IMPLEMENTATIONS:
        assert_equal(ours(run_config(weight_decay=0.3, decay_all=True, fused=fused)), theirs)


def cs336_adamw(model: Transformer) -> Callable[[float], None]:
    """The assignment's AdamW: α_t = α√(1−β₂ᵗ)/(1−β₁ᵗ); θ −= α_t·m/(√v+ε); θ −= α·λ·θ."""
    beta1, beta2, eps, decay = 0.9, 0.999, 1e-2, 0.3
    parameters = list(model.parameters())
    m = [torch.zeros_like(p) for p in parameters]
    v = [torch.zeros_like(p) for p in parameters]
    count = itertools.count(1)

    def step(scale: float) -> None:
        t, lr = next(count), LR * scale
        alpha_t = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        for i, p in enumerate(parameters):
            m[i] = beta1 * m[i] + (1 - beta1) * p.grad
            v[i] = beta2 * v[i] + (1 - beta2) * p.grad**2
            p.data -= alpha_t * m[i] / (torch.sqrt(v[i]) + eps)
            p.data -= lr * decay * p.data

    return step


def test_adamw_of_cs336() -> None:
    theirs = trained(cs336_adamw)
    for fused in IMPLEMENTATIONS:
        config = run_config(
            beta2=0.999, eps=1e-2, weight_decay=0.3, eps_inside=True, decay_after=True, decay_all=True, fused=fused
        )
        assert_equal(ours(config), theirs)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd_equals_torch(decay: float) -> None:
    theirs = torchs((torch.optim.SGD, lambda name, weight: True, {"lr": LR, "weight_decay": decay}))
    for fused in IMPLEMENTATIONS:
        assert_equal(ours(run_config(kind="sgd", weight_decay=decay, decay_all=True, fused=fused)), theirs)


def test_muon_equals_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)  # or torch rounds
    muon = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "nesterov": True}
    adamw = {"lr": LR, "betas": (0.9, 0.95)}
    theirs = torchs(
        (torch.optim.Muon, is_matrix, muon),
        (torch.optim.AdamW, lambda n, w: not is_matrix(n, w) and w.ndim == 2, adamw | {"weight_decay": 0.3}),
        (torch.optim.AdamW, lambda n, w: w.ndim < 2, adamw | {"weight_decay": 0.0}),
    )
    for fused in IMPLEMENTATIONS:
        assert_equal(ours(run_config(kind="muon", momentum=0.9, weight_decay=0.3, fused=fused)), theirs)


def test_muon_in_bfloat16_is_close_to_torch() -> None:
    """Weights in float32 and Newton-Schulz in bfloat16 on both sides, which round differently: apart by a small share
    of the way gone."""
    shapes = [(24, 24), (24, 24), (65, 24), (24, 65)]
    generator = torch.Generator().manual_seed(2)
    start = [torch.randn(shape, generator=generator) / 5 for shape in shapes]
    fused, written_out, theirs = ([nn.Parameter(weight.clone()) for weight in start] for _ in range(3))
    names = [str(i) for i in range(4)]
    steps = [
        Optimizer([Group("matrices", Muon(0.95, True), 0.02, 0.1, names, list(fused))]).step,
        Optimizer([Group("matrices", Muon(0.95, False), 0.02, 0.1, names, list(written_out))]).step,
    ]
    torchs_own = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True)
    pull = [torch.randn(shape, generator=generator) for shape in shapes]
    for _ in range(100):
        for *parameters, direction in zip(fused, written_out, theirs, pull, strict=True):
            gradient = direction + torch.randn(direction.shape, generator=generator)
            for parameter in parameters:
                parameter.grad = gradient.clone()
        for step in steps:
            step(1.0)
        torchs_own.step()
    for mine in (fused, written_out):
        for one, other, begun in zip(mine, theirs, start, strict=True):
            one, other = one.detach(), other.detach()
            assert float((one - other).norm() / (other - begun).norm()) < 0.02


@BOTH
def test_a_scheduled_momentum_is_used(fused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Muon with its group's momentum set before every step, as nanochat's program does."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)  # or torch rounds
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(7, 11, generator=generator, dtype=torch.float64)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    own = Optimizer([Group("matrices", Muon(0.95, fused == "on"), 0.02, 0.0, ["w"], [mine])])
    torchs_own = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.0)
    for step in range(20):
        momentum = min(0.95, 0.85 + 0.01 * step)
        mine.grad = torch.randn(7, 11, generator=generator, dtype=torch.float64)
        theirs.grad = mine.grad.clone()
        torchs_own.param_groups[0]["momentum"] = momentum
        own.step(1.0, momentum=momentum)
        torchs_own.step()
    assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 23, 23), (3, 17, 61), (5, 61, 17)])
def test_orthogonalize_approximates_the_orthogonal_factor(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    y = orthogonalize(x)
    singular = torch.linalg.svdvals(y)
    assert y.dtype == torch.float32
    assert singular.max() < 1.5
    assert singular.median() > 0.6
    alignment = (y * (u @ vt)).sum((-2, -1)) / (y.norm(dim=(-2, -1)) * (u @ vt).norm(dim=(-2, -1)))
    assert alignment.min() > 0.95
    assert not orthogonalize(torch.zeros(shape)).any()


@pytest.mark.parametrize("shape", [(2, 17, 61), (2, 61, 17), (2, 23, 23)])
def test_newton_schulz_on_the_gram_matrix_gives_the_same(shape: tuple[int, ...]) -> None:
    """Against the steps as they are published, in float64."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalize(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rows", "columns", "low", "high"), [(256, 1024, 0.6, 1.25), (256, 256, 0.0, 1.3)])
def test_singular_values_after_five_steps(rows: int, columns: int, low: float, high: float) -> None:
    """Those of a square matrix reach down to nearly 0, for its own do (seen: 0.68 to 1.14, and 0.08 to 1.20)."""
    x = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(1))
    singular = torch.linalg.svdvals(orthogonalize(x))
    assert low < singular.min() and singular.max() < high
    assert singular.median() > 0.65


@pytest.mark.parametrize(("has_bf16", "low", "high"), [(True, 1e-3, 5e-2), (False, 0.0, 1e-5)])
def test_a_cpu_without_bf16_instructions_orthogonalizes_in_float32(
    has_bf16: bool, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64: the difference is the rounding of the dtype that is used."""
    monkeypatch.setattr("llm.optim.muon.cpu_multiplies_bf16", lambda: has_bf16)
    x = torch.randn(1, 61, 127, generator=torch.Generator().manual_seed(1))
    exact = orthogonalize(x.double())
    assert low <= float((orthogonalize(x) - exact).norm() / exact.norm()) < high


def test_learning_rates_of_the_groups() -> None:
    optim = OptimConfig(kind="muon", matrix_lr=0.02, embedding_lr=0.2, head_lr=0.004, width_scaled_lr=True)
    model = Transformer(replace(MODEL, d_model=192, bias=True))
    optimizer = build_optimizer(model, RunConfig(model=MODEL, optim=optim, train=TrainConfig(lr=0.003)))
    rates = {group.label: (group.rule.name, group.lr, group.weight_decay) for group in optimizer.groups}
    assert rates == {
        "embedding": ("adamw", pytest.approx(0.4), 0.1),
        "head": ("adamw", pytest.approx(0.008), 0.1),
        "matrices": ("muon", 0.02, 0.1),
        "vectors": ("adamw", pytest.approx(0.006), 0.0),
    }
    names = itertools.chain.from_iterable(group.names for group in optimizer.groups)
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


KINDS: list[dict[str, Any]] = [
    {"kind": "adamw"},
    {"kind": "adamw", "eps_inside": True, "decay_after": True},
    {"kind": "sgd"},
    {"kind": "muon"},
]


def snapshot(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()) | optimizer.state_tensors())


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_step_changes_nothing(kind: dict[str, Any], fused: str, poison: float) -> None:
    """Skipped steps have no effect on later ones."""
    results = []
    for poisoned in (True, False):
        model = fresh()
        optimizer = build_optimizer(model, run_config(**kind, fused=fused))
        for step, _ in enumerate(itertools.islice(gradients(model), 20)):
            if poisoned and step in (0, 7, 8):
                kept = [p.grad.clone() for p in model.parameters()]
                for parameter in model.parameters():
                    parameter.grad.flatten()[:3] = poison
                before = snapshot(model, optimizer)
                optimizer.step(scale_at(step), torch.tensor(False))
                after = snapshot(model, optimizer)
                assert all(torch.equal(before[name], after[name]) for name in before)
                for parameter, gradient in zip(model.parameters(), kept, strict=True):
                    parameter.grad = gradient
            optimizer.step(scale_at(step), torch.tensor(True))
        results.append(snapshot(model, optimizer))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
    assert results[0]["step"] == 20


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_gating_does_not_change_an_applied_step(kind: dict[str, Any], fused: str) -> None:
    results = []
    for finite in (None, torch.tensor(True)):
        model = fresh()
        optimizer = build_optimizer(model, run_config(**kind, fused=fused))
        for _ in itertools.islice(gradients(model), 20):
            optimizer.step(0.7, finite)
        results.append(snapshot(model, optimizer))
    for name, value in results[0].items():
        gated = results[1][name]
        assert (value - gated).abs().max() <= 1e-12 * gated.abs().max(), name  # single elements may cancel to about 0


def steps(model: nn.Module, optimizer: Optimizer, count: Iterable[None]) -> None:
    for _ in count:
        optimizer.step(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_continues_exactly(kind: dict[str, Any]) -> None:
    model = fresh()
    optimizer = build_optimizer(model, run_config(**kind))
    source = gradients(model)
    steps(model, optimizer, itertools.islice(source, 5))
    other = fresh()
    other.load_state_dict(model.state_dict())
    restored = build_optimizer(other, run_config(**kind))
    restored.load_state_tensors(copy.deepcopy(optimizer.state_tensors()))
    for _ in itertools.islice(source, 5):
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.grad = theirs.grad.clone()
        optimizer.step(1.0)
        restored.step(1.0)
    expected, found = snapshot(model, optimizer), snapshot(other, restored)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_zero_grad_drops_the_gradients_and_a_step_needs_them() -> None:
    model = fresh()
    optimizer = build_optimizer(model, run_config())
    next(gradients(model))
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"embedding\.weight has no gradient"):
        optimizer.step(1.0)


def test_every_optimizer_has_a_rule_and_its_facts() -> None:
    assert OPTIMIZERS.keys() == OPTIMIZER_INFO.keys()
    assert next(field.choices for field in fields_of(RunConfig) if field.path == "optim.kind") == tuple(OPTIMIZER_INFO)
    for kind, info in OPTIMIZER_INFO.items():
        optimizer = build_optimizer(fresh(), run_config(kind=kind))
        assert len(OPTIMIZERS[kind](OptimConfig(), False).slots) == info.state_tensors
        labels = {group.label for group in optimizer.groups if group.rule.name == kind}
        assert labels == set(info.groups) - {"adapters"}, "a model without adapters has all other groups"
        state = sum(tensor.numel() for name, tensor in optimizer.state_tensors().items() if name != "step")
        expected = {
            group: OPTIMIZER_INFO[optimizer_of_group(kind, group)].state_tensors * numbers
            for group, numbers in group_parameters(MODEL).items()
        }
        assert state == sum(expected.values())


def test_an_unknown_optimizer_is_an_error() -> None:
    with pytest.raises(KeyError, match="lion"):
        build_optimizer(fresh(), run_config(kind="lion"))
    assert "optim.kind" in [problem.path for problem in check(run_config(kind="lion"))]
