"""The parts by themselves, called as the adapters of a course's assignment call them (CS336, assignment 1).

Such a suite hands weights, arrays and shapes to one part at a time, and compares with torch or with numbers of its own.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import resolve_model
from llm.config.schema import ModelConfig, RunConfig, ScheduleConfig, TrainConfig
from llm.data.batches.memory import ArraySplit
from llm.data.batches.windows import Batches
from llm.errors import UserError
from llm.model.attention import Attention, KVCache
from llm.model.kernels import FUSED, REFERENCE, Kernels, softmax
from llm.model.layers import Embedding, Linear, RMSNorm, use_kernels
from llm.model.loss import cross_entropy
from llm.model.mlp import FeedForward
from llm.model.rotary import Rotary
from llm.model.transformer import Block, Transformer
from llm.optim import clip_grad_norm, lr_at
from llm.optim.standalone import SGD, AdamW, Muon, RuleOptimizer
from llm.training.statefile import load_state, save_state

D, HEADS, D_FF, CONTEXT, VOCAB, LAYERS = 24, 4, 40, 12, 53, 2
KERNELS = pytest.mark.parametrize("kernels", [REFERENCE, FUSED], ids=["reference", "fused"])


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


# --- layers, given weights


@KERNELS
def test_layers_take_weights_by_load_state_dict(kernels: Kernels) -> None:
    linear = use_kernels(Linear(D, 7, bias=False), kernels)
    linear.load_state_dict({"weight": random(7, D)})
    torch.testing.assert_close(linear(random(2, 3, D)), random(2, 3, D) @ random(7, D).T)
    embedding = use_kernels(Embedding(VOCAB, D), kernels)
    embedding.load_state_dict({"weight": random(VOCAB, D)})
    ids = torch.tensor([[3, 0], [52, 3]])
    assert torch.equal(embedding(ids), random(VOCAB, D)[ids])
    norm = use_kernels(RMSNorm(D, eps=1e-5, gain=True), kernels)
    norm.load_state_dict({"gain": random(D)})
    torch.testing.assert_close(norm(random(2, D)), F.rms_norm(random(2, D), (D,), random(D), 1e-5))


@KERNELS
def test_swiglu(kernels: Kernels) -> None:
    part = use_kernels(FeedForward(ModelConfig(d_model=D, d_ff=D_FF)), kernels)
    w1, w2, w3 = random(D_FF, D), random(D, D_FF), random(D_FF, D, seed=2)
    part.load_state_dict({"gate.weight": w1, "down.weight": w2, "up.weight": w3})
    x = random(2, 5, D)
    torch.testing.assert_close(part(x), (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T)


@KERNELS
def test_attention_by_a_mask_of_ones_own(kernels: Kernels) -> None:
    query, key, value = random(2, 3, 5, 8), random(2, 3, 6, 8), random(2, 3, 6, 8, seed=4)
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[:, 0] = True
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(kernels.attention(query, key, value, 0.0, mask), expected)


@KERNELS
def test_rope_at_given_positions(kernels: Kernels) -> None:
    rotary = use_kernels(Rotary(8, CONTEXT, theta=10000.0, pairs="even-odd"), kernels)
    x, positions = random(2, 3, 4, 8), torch.tensor([7, 0, 3, 11])
    turned = kernels.rotate(x, rotary.cos[positions], rotary.sin[positions], "even-odd")
    for index, position in enumerate(positions.tolist()):
        torch.testing.assert_close(turned[:, :, index : index + 1], rotary(x[:, :, index : index + 1], position))


def weights_of_attention() -> dict[str, Tensor]:
    return {f"{name}.weight": random(D, D, seed=seed) / D**0.5 for seed, name in enumerate(("q", "k", "v", "out"))}


@KERNELS
@pytest.mark.parametrize("rope", [False, True])
def test_multihead_self_attention_stands_alone(kernels: Kernels, rope: bool) -> None:
    """No vocabulary, depth or feed-forward is needed to build it."""
    config = ModelConfig(d_model=D, n_head=HEADS, n_kv_head=HEADS, context=CONTEXT)
    part, weights, x = use_kernels(Attention(config, 0), kernels), weights_of_attention(), random(2, 9, D)
    part.load_state_dict(weights)
    rotary = use_kernels(Rotary(D // HEADS, CONTEXT, theta=10000.0, pairs="even-odd"), kernels) if rope else None
    heads = [(x @ weights[f"{n}.weight"].T).unflatten(-1, (HEADS, -1)).transpose(1, 2) for n in "qkv"]
    if rotary is not None:
        heads[:2] = [rotary(head, 0) for head in heads[:2]]
    mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(part(x, rotary, None), mixed @ weights["out.weight"].T)


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ({"n_kv_head": 0}, "n_kv_head"),
        ({"n_kv_head": 4, "d_model": 0}, "d_model"),
        ({"n_kv_head": 4, "d_model": 26}, "n_head"),
        ({"n_kv_head": 3}, "n_kv_head"),
        ({"n_kv_head": 4, "d_model": 20}, "head width"),
    ],
)
def test_an_unresolved_shape_is_refused_by_the_part_itself(shape: dict[str, int], field: str) -> None:
    config = ModelConfig(**({"d_model": D, "n_head": HEADS, "context": CONTEXT} | shape))
    for build in (lambda: Attention(config, 0), lambda: KVCache(config, 1), lambda: Block(config, 0)):
        with pytest.raises(ValueError, match=field):
            build()


def test_a_feed_forward_without_a_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"d_ff is 0: call llm\.config\.resolve_model first"):
        FeedForward(ModelConfig(d_model=D))


def test_a_whole_model_from_the_courses_arguments() -> None:
    config = ModelConfig(
        n_layer=LAYERS, d_model=D, n_head=HEADS, d_ff=D_FF, context=CONTEXT, rope_theta=10000.0, tied_head=False
    )
    model = Transformer(resolve_model(config, VOCAB))
    model.init_weights(torch.Generator().manual_seed(1))
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, VOCAB)


# --- functions


def test_softmax_and_cross_entropy_of_large_numbers() -> None:
    x = random(8, 5)
    torch.testing.assert_close(softmax(x + 100), F.softmax(x, -1))
    targets = torch.tensor([1, 0, 2, 2, 4, 1, 4, 0])
    torch.testing.assert_close(cross_entropy(1000.0 * x, targets), F.cross_entropy(1000.0 * x, targets))


def test_clipping_passes_over_what_has_no_gradient() -> None:
    ours, theirs = ([nn.Parameter(random(5, 5, seed=seed)) for seed in range(5)] for _ in range(2))
    for parameters in (ours, theirs):
        parameters[-1].requires_grad_(False)
        torch.cat(parameters).sum().backward()
    clip_grad_norm(iter(ours), 1e-2)
    nn.utils.clip_grad_norm_(theirs, 1e-2)
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-9)


def test_cosine_schedule_with_warm_up() -> None:
    schedule = ScheduleConfig(kind="cosine", lr_min=0.1, warmup_steps=7, decay_steps=21, warmup_from="zero")
    config = RunConfig(train=TrainConfig(lr=1.0), schedule=schedule)
    for it in range(25):
        expected = it / 7 if it < 7 else 0.1 + 0.45 * (1 + math.cos(math.pi * min(1, (it - 7) / 14)))
        assert lr_at(it, 25, config) == pytest.approx(expected)


# --- batches from an array


def test_batches_of_an_array_in_memory() -> None:
    """Rows that follow one another, from every start that has a target, each about as often."""
    tokens, rows, length = np.arange(100), 32, 7
    batches = Batches(ArraySplit(tokens), rows=rows, seq_len=length, seed=3)
    starts = np.zeros(93, dtype=int)
    for i in range(1000):
        x, y = (torch.from_numpy(part) for part in batches.batch(i))
        assert x.shape == y.shape == (rows, length) and x.dtype == torch.int64
        assert torch.equal(y, x + 1)
        np.add.at(starts, x[:, 0].numpy(), 1)
    expected = 1000 * rows / len(starts)
    assert abs(starts - expected).max() < 5 * math.sqrt(expected)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_an_array_of_any_integers_and_a_memory_map(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(60_000, 60_050).astype(dtype))
    split = ArraySplit(np.load(tmp_path / "tokens.npy", mmap_mode="r"))
    x, y = Batches(split, rows=2, seq_len=10, seed=1, order="sequential").batch(0)
    assert x.tolist() == [list(range(60_000, 60_010)), list(range(60_010, 60_020))]
    assert (y - x == 1).all()


def test_an_array_that_is_no_row_of_tokens_is_refused() -> None:
    for wrong in (np.zeros((2, 2), dtype=int), np.zeros(9)):
        with pytest.raises(ValueError, match="one-dimensional array of integers"):
            ArraySplit(wrong)
    split = ArraySplit(np.array([1, 2, -3]))
    with pytest.raises(IndexError, match="outside the 3"):
        split.read(1, 4)
    with pytest.raises(ValueError, match="id -3"):
        split.read(0, 3)
    with pytest.raises(UserError, match="too short"):
        Batches(split, rows=1, seq_len=3, seed=1)


# --- optimizers as torch's


def network(seed: int = 42) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


def optimize(make: Callable[[nn.Module], torch.optim.Optimizer], steps: int = 100) -> tuple[nn.Module, Any]:
    model = network()
    optimizer = make(model)
    for step in range(steps):
        optimizer.zero_grad()
        x = random(5, 6, seed=step)
        ((model(x) - x[:, :4].square()) ** 2).mean().backward()
        optimizer.step()
    return model, optimizer


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


ADAMW: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-6}


def test_adamw_is_torchs() -> None:
    ours, _ = optimize(lambda model: AdamW(model.parameters(), **ADAMW))
    theirs, _ = optimize(lambda model: torch.optim.AdamW(model.parameters(), **ADAMW))
    assert_same(ours, theirs)


def test_sgd_and_muon_are_torchs() -> None:
    ours, _ = optimize(lambda model: SGD(model.parameters(), lr=0.05))
    theirs, _ = optimize(lambda model: torch.optim.SGD(model.parameters(), lr=0.05))
    assert_same(ours, theirs)

    def matrices(model: nn.Module) -> list[nn.Parameter]:
        return [parameter for parameter in model.parameters() if parameter.ndim == 2]

    mine, _ = optimize(lambda model: Muon(matrices(model), lr=0.01), steps=20)
    others, _ = optimize(lambda model: torch.optim.Muon(matrices(model), lr=0.01, weight_decay=0.0), steps=20)
    for one, other in zip(matrices(mine), matrices(others), strict=True):
        assert float((one - other).detach().norm() / other.detach().norm()) < 0.02  # both orthogonalize in bfloat16


def test_groups_have_separate_hyperparameters_and_schedulers_set_them() -> None:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": model[2].parameters(), "weight_decay": 0.0, "betas": (0.5, 0.5)},
    ]
    optimizer = AdamW(groups, lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    loss = optimizer.step(lambda: closure(model, optimizer))
    scheduler.step()
    assert loss.item() > 0
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.05]


def closure(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = model(random(5, 6)).square().mean()
    loss.backward()
    return loss


def test_parameters_without_a_gradient_stay_and_have_no_state() -> None:
    model = network()
    optimizer = AdamW(model.parameters(), lr=0.1)
    kept = model[2].weight.detach().clone()
    model[0](random(5, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(model[2].weight, kept)
    assert len(optimizer.state_dict()["state"]) == 2


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"eps": -1e-8}, {"weight_decay": -0.1}]
)
def test_hyperparameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdamW(network().parameters(), **wrong)
    with pytest.raises(ValueError, match="Muon updates matrices"):
        Muon(network().parameters())


def test_a_state_of_torchs_optimizer_continues_here() -> None:
    ours, mine = optimize(lambda model: AdamW(model.parameters(), **ADAMW), steps=10)
    theirs, others = optimize(lambda model: torch.optim.AdamW(model.parameters(), **ADAMW), steps=10)
    assert mine.state_dict()["state"][0].keys() == others.state_dict()["state"][0].keys()
    optimizer = AdamW(theirs.parameters(), lr=1.0)
    optimizer.load_state_dict(others.state_dict())
    for model, stepped in ((ours, mine), (theirs, optimizer)):
        closure(model, stepped)
        stepped.step()
    assert_same(ours, theirs)


# --- one file


def are_equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """As a course's suite compares optimizer states."""
    if first["param_groups"] != second["param_groups"] or first["state"].keys() != second["state"].keys():
        return False
    pairs = [(first["state"][key], second["state"][key]) for key in first["state"]]
    return all(one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) for one, two in pairs)


@pytest.mark.parametrize("kind", [AdamW, SGD])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_state_is_saved_to_one_path_and_loaded_from_it(
    kind: type[RuleOptimizer], as_file: bool, tmp_path: Path
) -> None:
    model, optimizer = optimize(lambda model: kind(model.parameters(), lr=1e-3, weight_decay=0.01), steps=10)
    place: Any = io.BytesIO() if as_file else tmp_path / "checkpoint.pt"
    save_state(model, optimizer, 10, place)
    if as_file:
        place.seek(0)
    other = network(seed=7)
    loaded = kind(other.parameters(), lr=1e-3, weight_decay=0.01)
    assert load_state(place, other, loaded) == 10
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert are_equal(optimizer.state_dict(), loaded.state_dict())
    for one, stepped in ((model, optimizer), (other, loaded)):
        closure(one, stepped)
        stepped.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_saving_again_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    model, optimizer = optimize(lambda model: AdamW(model.parameters()), steps=1)
    for iteration in (1, 2):
        save_state(model, optimizer, iteration, str(tmp_path / "state.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert load_state(tmp_path / "state.pt", model) == 2


def test_a_file_that_is_no_state_is_a_sentence(tmp_path: Path) -> None:
    model, optimizer = optimize(lambda model: AdamW(model.parameters()), steps=1)
    (tmp_path / "text").write_text("no archive")
    torch.save({"model": 1}, tmp_path / "other")
    save_state(nn.Linear(2, 2), optimizer, 1, tmp_path / "foreign")
    for name, words in (
        ("missing", "cannot be read as a saved state"),
        ("text", "cannot be read as a saved state"),
        ("other", "is not a saved state of model, optimizer and iteration"),
        ("foreign", "does not fit this model or optimizer"),
    ):
        with pytest.raises(UserError, match=words):
            load_state(tmp_path / name, model, optimizer)


def test_a_loop_of_parts_learns() -> None:
    """Array, model, optimizer, schedule, clipping and one file, without a run directory."""
    tokens = np.tile(np.arange(17), 40)
    config = ModelConfig(n_layer=1, d_model=16, n_head=2, context=8)
    model = Transformer(resolve_model(config, 17))
    model.init_weights(torch.Generator().manual_seed(1))
    optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    batches = Batches(ArraySplit(tokens), rows=8, seq_len=8, seed=1)
    losses = []
    for i in itertools.count():
        x, y = (torch.from_numpy(part) for part in batches.batch(i))
        loss = model.loss(x, y)
        losses.append(loss.item())
        if i == 60:
            break
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
    assert losses[0] > 2.5 and losses[-1] < 0.5
