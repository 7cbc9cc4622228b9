"""Cross entropy against torch's, whole and in chunks, values and gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model import loss
from llm.model.loss import cross_entropy, linear_cross_entropy
from tests.model.models_for_tests import relative_error

ROWS, WIDTH, VOCAB = 23, 7, 37


def example(scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    targets[[1, 8, 22]] = -1
    return hidden, weight, targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("scale", [3.0, 1e4])
def test_cross_entropy(reduction: str, scale: float) -> None:
    hidden, weight, targets = example(scale)
    gradients = []
    values = []
    for function in (cross_entropy, lambda x, y, r: F.cross_entropy(x, y, ignore_index=-1, reduction=r)):
        logits = (hidden @ weight.T).requires_grad_()
        value = function(logits, targets, reduction)
        value.backward(torch.linspace(1, 2, value.numel(), dtype=torch.float64).view(value.shape))
        values.append(value)
        gradients.append(logits.grad)
    assert relative_error(*values) < 1e-12
    assert relative_error(*gradients) < 1e-12


def test_any_number_of_axes_and_all_targets_ignored() -> None:
    hidden, weight, targets = example()
    logits = (hidden @ weight.T)[:22].view(2, 11, VOCAB)
    flat = cross_entropy(logits.view(22, VOCAB), targets[:22])
    assert cross_entropy(logits, targets[:22].view(2, 11)) == flat
    assert cross_entropy(logits, targets[:22].view(2, 11), "none").shape == (2, 11)
    nothing = torch.full((ROWS,), -1)
    assert cross_entropy(hidden @ weight.T, nothing) == 0
    assert linear_cross_entropy(hidden, weight, nothing) == 0


def reference(softcap: float) -> Callable[..., Tensor]:
    def function(hidden: Tensor, weight: Tensor, targets: Tensor, reduction: str) -> Tensor:
        logits = hidden @ weight.T
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)

    return function


@pytest.mark.parametrize("rows_at_once", [1, 5, 23, 100])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_linear_cross_entropy(
    softcap: float, reduction: str, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "chunk_rows", lambda weight: rows_at_once)
    results = []
    for chunked in (True, False):
        hidden, weight, targets = example()
        hidden.requires_grad_()
        weight.requires_grad_()
        if chunked:
            value = linear_cross_entropy(hidden, weight, targets, softcap=softcap, reduction=reduction)
            with torch.no_grad():
                unrecorded = linear_cross_entropy(hidden, weight, targets, softcap=softcap, reduction=reduction)
            assert relative_error(unrecorded, value) < 1e-12
        else:
            value = reference(softcap)(hidden, weight, targets, reduction)
        value.backward(torch.linspace(0.5, 2, value.numel(), dtype=torch.float64).view(value.shape))
        results.append((value, hidden.grad, weight.grad))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-12


def test_float16_products_keep_small_gradients() -> None:
    """Divided by 20 000 tokens in the forward pass, the gradient would underflow in float16."""
    generator = torch.Generator().manual_seed(2)
    hidden = (torch.randn(20_000, 8, generator=generator) * 0.1).requires_grad_()
    weight = torch.randn(64, 8, generator=generator).requires_grad_()
    targets = torch.randint(0, 64, (20_000,), generator=generator)
    (exact,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), hidden)
    with torch.autocast("cpu", torch.float16):
        value = linear_cross_entropy(hidden, weight, targets)
    (gradient,) = torch.autograd.grad(value, hidden)
    assert gradient.dtype == torch.float32
    assert relative_error(gradient, exact) < 1e-2


def test_the_logits_are_never_all_in_memory() -> None:
    """The largest tensor saved for backward is the gradient of the weight."""
    rows, vocab = 512, 8192
    hidden, weight = torch.randn(rows, 4, requires_grad=True), torch.randn(vocab, 4, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,))
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        linear_cross_entropy(hidden, weight, targets)
    assert max(saved) == vocab * 4
