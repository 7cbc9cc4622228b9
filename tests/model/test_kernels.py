"""Every reference and fused operation against PyTorch: values and gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.kernels import FUSED, REFERENCE, Kernels, softmax
from tests.model.models_for_tests import largest_value, relative_error

Function = Callable[..., Tensor]


def random(*shape: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def agree(first: Function, second: Function, *inputs: Tensor) -> None:
    """Same values and same gradients, for gradients of the output that are all different.

    Errors are relative to the largest number of the comparison: all its results are sums of terms of that size, also
    where they cancel, as the gradients of a query and a key do where there is one key.
    """
    results = []
    for function in (first, second):
        copies = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        y = function(*copies)
        y.backward(random(*y.shape))
        results.append([y, *(x.grad for x in copies if x.requires_grad)])
    scale = largest_value(results[1])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b, scale) < 1e-12


BOTH = pytest.mark.parametrize("kernels", [REFERENCE, FUSED], ids=["reference", "fused"])


@BOTH
def test_linear(kernels: Kernels) -> None:
    agree(
        kernels.linear,
        lambda x, w, b: torch.einsum("bti,oi->bto", x, w) + b,
        random(3, 5, 7),
        random(11, 7),
        random(11),
    )
    agree(
        lambda x, w: kernels.linear(x, w, None),
        lambda x, w: torch.einsum("bti,oi->bto", x, w),
        random(3, 5, 7),
        random(11, 7),
    )


@BOTH
@pytest.mark.parametrize("rows", [2, 11])
def test_joint_linear(kernels: Kernels, rows: int) -> None:
    """Also of few rows, whose matrices are not joined."""
    weights, biases = (random(5, 7), random(3, 7), random(2, 7)), (random(5), random(3), random(2))
    agree(
        lambda x, *parts: kernels.joint_linear(x, parts[:3], parts[3:]),
        lambda x, *parts: torch.cat([F.linear(x, w, b) for w, b in zip(parts[:3], parts[3:], strict=True)], -1),
        random(1, rows, 7), *weights, *biases,
    )  # fmt: skip
    agree(
        lambda x, *parts: kernels.joint_linear(x, parts, [None] * 3),
        lambda x, *parts: torch.cat([F.linear(x, w) for w in parts], -1),
        random(1, rows, 7), *weights,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_many_numbers(dtype: torch.dtype) -> None:
    """More than a block of them, in the dtypes of training, as precise as PyTorch's; the input is overwritten, which
    PyTorch notices."""
    x = (random(301, 266) * 4).to(dtype)
    for fused, reference in ((FUSED.gelu, REFERENCE.gelu), (FUSED.swiglu, REFERENCE.swiglu)):
        copies = [x.double().requires_grad_(), x.clone().requires_grad_()]
        exact, y = reference(copies[0]), fused(copies[1] * 1)
        exact.sum().backward()
        y.sum().backward()
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(y.double(), exact, rtol=4 * eps, atol=4 * eps)
        torch.testing.assert_close(copies[1].grad.double(), copies[0].grad, rtol=8 * eps, atol=16 * eps)
        used_twice = x.clone().requires_grad_() * 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (used_twice.square().sum() + fused(used_twice).sum()).backward()


@BOTH
def test_embedding(kernels: Kernels) -> None:
    ids = torch.tensor([[4, 0, 4], [6, 1, 1]])
    agree(lambda w: kernels.embedding(ids, w), lambda w: F.one_hot(ids, 7).double() @ w, random(7, 5))


@BOTH
def test_rms_norm(kernels: Kernels) -> None:
    torchs = torch.nn.RMSNorm(7, eps=1e-3, elementwise_affine=False).double()
    agree(lambda x, g: kernels.rms_norm(x, g, 1e-3), lambda x, g: torchs(x) * g, random(3, 5, 7), random(7))
    agree(lambda x: kernels.rms_norm(x, None, 1e-3), torchs, random(3, 5, 7))


@BOTH
def test_layer_norm(kernels: Kernels) -> None:
    torchs = torch.nn.LayerNorm(7, eps=1e-3, elementwise_affine=False).double()
    agree(
        lambda x, g, b: kernels.layer_norm(x, g, b, 1e-3),
        lambda x, g, b: torchs(x) * g + b,
        random(3, 5, 7),
        random(7),
        random(7, seed=9),
    )
    agree(lambda x: kernels.layer_norm(x, None, None, 1e-3), torchs, random(3, 5, 7))


@BOTH
def test_activations(kernels: Kernels) -> None:
    agree(kernels.swiglu, lambda x: F.silu(x[..., :5]) * x[..., 5:], random(3, 10) * 4)
    agree(kernels.gelu, torch.nn.GELU(approximate="tanh"), random(3, 5) * 4)
    agree(kernels.gelu_exact, lambda x: x * torch.special.ndtr(x), random(3, 5) * 4)


def test_softmax() -> None:
    agree(softmax, lambda x: torch.softmax(x, -1), random(3, 5, 7) * 10)
    assert torch.equal(softmax(torch.tensor([1000.0, -torch.inf, 1000.0])), torch.tensor([0.5, 0.0, 0.5]))


def by_loops(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention by a loop over the queries, which are the last positions."""
    batch, heads, queries, width = query.shape
    earlier = key.shape[2] - queries
    rows = []
    for b in range(batch):
        for h in range(heads):
            group = h // (heads // key.shape[1])
            for t in range(queries):
                stop = earlier + t + 1
                weights = torch.softmax(key[b, group, :stop] @ query[b, h, t] / width**0.5, -1)
                rows.append(weights @ value[b, group, :stop])
    return torch.stack(rows).view(batch, heads, queries, width)


@BOTH
@pytest.mark.parametrize("queries,keys", [(11, 11), (3, 11), (1, 11), (1, 1)])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_attention(kernels: Kernels, queries: int, keys: int, groups: int) -> None:
    inputs = random(2, 6, queries, 5), random(2, groups, keys, 5), random(2, groups, keys, 5, seed=8)
    agree(lambda q, k, v: kernels.attention(q, k, v, 0.0), by_loops, *inputs)


@BOTH
def test_attention_dropout_keeps_the_mean(kernels: Kernels) -> None:
    torch.manual_seed(0)
    query, key, value = random(1, 1, 7, 5), random(1, 1, 7, 5), random(1, 1, 7, 5, seed=8)
    draws = torch.stack([kernels.attention(query, key, value, 0.3) for _ in range(4000)])
    assert draws.std(0).max() > 0.1
    assert (draws.mean(0) - kernels.attention(query, key, value, 0.0)).abs().max() < 0.1


@BOTH
@pytest.mark.parametrize("name", ["rms_norm", "layer_norm"])
def test_norms_of_half_precision_are_computed_in_float32(kernels: Kernels, name: str) -> None:
    x = (random(5, 509) * 300).to(torch.float16)  # its squares overflow float16
    extra = (None,) if name == "rms_norm" else (None, None)
    y = getattr(kernels, name)(x, *extra, 1e-5)
    exact = getattr(kernels, name)(x.double(), *extra, 1e-5)
    assert y.dtype == torch.float16
    assert relative_error(y.double(), exact) < 1e-3
    gain = random(509).to(torch.float16)
    y = getattr(kernels, name)(x, gain, *extra[1:], 1e-5)
    assert relative_error(y.double(), exact * gain) < 2e-3
