"""Blockwise attention against the reference, and the statistics of its dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llm.model import blockwise
from llm.model.blockwise import DropoutMasks, blockwise_attention
from llm.model.kernels import FUSED, REFERENCE
from tests.model.models_for_tests import relative_error
from tests.model.test_kernels import agree, random


@pytest.mark.parametrize("part_numbers", [1, 1 << 20], ids=["a head at a time", "all heads at once"])
@pytest.mark.parametrize("positions", [2, 7, 128, 131, 521])  # a text of 521 keeps no weights
@pytest.mark.parametrize("groups", [1, 3])
def test_blockwise_equals_reference_attention(
    positions: int, groups: int, part_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "MAX_PART_WEIGHTS", part_numbers)
    inputs = random(2, 3, positions, 5), random(2, groups, positions, 5), random(2, groups, positions, 5, seed=8)
    agree(lambda q, k, v: blockwise_attention(q, k, v, 0.0), lambda q, k, v: REFERENCE.attention(q, k, v, 0.0), *inputs)


@pytest.mark.parametrize("positions", [7, 263])
def test_the_backward_pass_draws_the_dropout_of_the_forward_pass(positions: int) -> None:
    """Directional derivatives by differences: correct only if both passes use the same mask."""
    inputs = [random(1, 4, positions, 5), random(1, 2, positions, 5), random(1, 2, positions, 5, seed=8)]
    towards = [random(*x.shape, seed=21) for x in inputs]
    weights = random(1, 4, positions, 5, seed=4)

    def value(distance: float) -> Tensor:
        torch.manual_seed(5)
        moved = [(x + distance * t).requires_grad_() for x, t in zip(inputs, towards, strict=True)]
        y = (blockwise_attention(*moved, 0.3) * weights).sum()
        y.backward()
        slopes = [(x.grad * t).sum() for x, t in zip(moved, towards, strict=True)]
        return torch.stack([y.detach(), torch.stack(slopes).sum()])

    before, here, after = value(-1e-5), value(0.0), value(1e-5)
    assert here[1] == pytest.approx(float(after[0] - before[0]) / 2e-5, rel=1e-7)
    torch.manual_seed(6)
    assert blockwise_attention(*inputs, 0.3).mul(weights).sum() != here[0]


@pytest.mark.parametrize("positions", [7, 263])
def test_dropout_equals_reference_with_the_same_mask(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks of parts of one head each are joined to a matrix (T, T) per head."""
    monkeypatch.setattr(blockwise, "MAX_PART_WEIGHTS", 1)
    heads, dropout = 2, 0.25
    query, key, value = (random(1, heads, positions, 5, seed=seed) for seed in (1, 2, 3))
    torch.manual_seed(9)
    noise = DropoutMasks(dropout, int(torch.empty((), dtype=torch.int64).random_()))
    mask = torch.zeros(heads, positions, positions, dtype=torch.float64)
    for part, start, stop in blockwise.parts(query.view(heads, 1, positions, 5)):
        mask[part, start:stop, :stop] = noise.next_like(mask[part, start:stop, :stop])

    def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT / 5**0.5).masked_fill(torch.ones(positions, positions).triu(1).bool(), -torch.inf)
        return (torch.softmax(scores, -1) * mask / (1 - dropout)) @ v

    def by_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(9)
        return blockwise_attention(q, k, v, dropout)

    agree(by_blocks, written_out, query, key, value)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_masks_have_the_right_share_and_no_pattern(dropout: float, dtype: torch.dtype) -> None:
    like = torch.empty(1009, 1013, dtype=dtype)
    noise = DropoutMasks(dropout, 3).next_like(like).float()
    assert set(noise.unique().tolist()) == {0.0, 1.0}
    deviation = (dropout * (1 - dropout) / noise.numel()) ** 0.5
    assert abs(noise.mean() - (1 - dropout)) < 5 * deviation
    for shift in range(1, 5):  # four numbers come from one draw
        flat = noise.flatten()
        together = ((flat[shift:] - noise.mean()) * (flat[:-shift] - noise.mean())).mean()
        assert abs(together) < 5 * dropout * (1 - dropout) / noise.numel() ** 0.5


def test_dropout_masks_do_not_depend_on_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(DropoutMasks(0.1, 3).next_like(torch.empty(1009, 1013)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_saved_memory_grows_linearly_with_the_length(dropout: float) -> None:
    def saved(positions: int) -> int:
        inputs = [torch.zeros(1, 2, positions, 8, requires_grad=True) for _ in range(3)]
        held: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            blockwise_attention(*inputs, dropout)
        return sum(held.values())

    assert saved(1024) == 2 * saved(512) == 4 * (1024 * 2 * 8 * 4)


def test_training_in_bfloat16_is_close_to_float64() -> None:
    inputs = random(2, 4, 257, 16), random(2, 2, 257, 16), random(2, 2, 257, 16, seed=8)
    narrow = [x.bfloat16().requires_grad_() for x in inputs]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    y, exact = FUSED.attention(*narrow, 0.0, None), REFERENCE.attention(*wide, 0.0, None)
    assert torch.equal(y, blockwise_attention(*narrow, 0.0))
    y.sum().backward()
    exact.sum().backward()
    assert y.dtype == torch.bfloat16
    assert relative_error(y.double(), exact) < 2e-2
    for a, b in zip(narrow, wide, strict=True):
        assert relative_error(a.grad.double(), b.grad) < 3e-2
