"""Quantized matrices: near the given ones, multiplied as exactly as their format allows, each row by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.engine import Engine
from llm.engine import weights as engine_weights
from llm.errors import WrongUse
from llm.model.packed import QuantizedLinear
from llm.model.quantized import Int4Linear, Int8Linear, Int8WeightLinear, has_fbgemm
from llm.tokenizer.byte import ByteTokenizer
from tests.model.models_for_tests import relative_error, tiny
from tests.model.test_packed import NEEDS_INT4, model_of

NEEDS_FBGEMM = pytest.mark.skipif(not has_fbgemm(), reason="torch has no fbgemm here")
OUTPUTS, INPUTS = 211, 89


def in_bytes(x: Tensor) -> Tensor:
    """x as `Int8Linear` rounds it: 256 levels from the smallest to the largest number of a row."""
    low, high = x.double().aminmax(dim=-1, keepdim=True)
    return low + ((x - low) / (high - low) * 255).round() * (high - low) / 255


def as_bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().double()


KINDS = [
    # the class, its largest error of a weight as a share of the largest one, what it does to x, its rounding
    pytest.param(Int8Linear, 0.501 / 63, in_bytes, 1e-5, marks=NEEDS_FBGEMM, id="int8"),
    pytest.param(Int8WeightLinear, 0.51 / 127, as_bfloat16, 2**-8, id="int8 without fbgemm"),
    pytest.param(Int4Linear, 0.55 / 7.5, as_bfloat16, 2**-8, marks=NEEDS_INT4, id="int4"),
]
Rounding = Callable[[Tensor], Tensor]


def matrix(seed: int = 1) -> Tensor:
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(seed))
    weight[3] = 0
    return weight


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, INPUTS, generator=torch.Generator().manual_seed(2)) + 0.3


@pytest.mark.parametrize(("kind", "error", "rounded", "tolerance"), KINDS)
def test_the_product_is_that_of_the_nearest_matrix(
    kind: type[QuantizedLinear], error: float, rounded: Rounding, tolerance: float
) -> None:
    weight, bias, x = matrix(), torch.linspace(-1, 1, OUTPUTS), inputs(2, 7)
    restored = kind(weight)(torch.eye(INPUTS)).T.double()
    assert (restored - weight).abs().max() <= (error + tolerance) * weight.abs().max()
    assert not restored[3].any()
    product = rounded(x) @ restored.T
    assert relative_error(kind(weight)(x), product) < 3 * tolerance
    assert relative_error(kind(weight, bias)(x), product + bias) < 3 * tolerance
    gelu = torch.nn.functional.gelu(product + bias, approximate="tanh")
    assert relative_error(kind(weight, bias, gelu="tanh")(x), gelu) < 5 * tolerance


@pytest.mark.parametrize(("kind", "error", "rounded", "tolerance"), KINDS)
def test_a_row_does_not_depend_on_other_rows(
    kind: type[QuantizedLinear], error: float, rounded: Rounding, tolerance: float
) -> None:
    """Not on one of zeros, of one number, or of large ones, either."""
    narrow, x = kind(matrix(), torch.linspace(-1, 1, OUTPUTS), gelu="tanh"), inputs(9)
    x[2], x[5], x[7] = 0, 2.5, 1000 * x[7]
    together = narrow(x)
    for row in range(9):
        assert torch.equal(narrow(x[row : row + 1])[0], together[row])
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    assert torch.equal(narrow(x), together)
    torch.set_num_threads(before)
    product = 2.5 * kind(matrix())(torch.eye(INPUTS)).sum(dim=0).double()
    assert relative_error(kind(matrix())(x[5:6])[0], product) < 0.02


@NEEDS_FBGEMM
def test_the_largest_int8_products_do_not_saturate() -> None:
    weight = torch.ones(OUTPUTS, INPUTS)
    x = torch.ones(1, INPUTS)
    x[0, -1] = 0
    assert relative_error(Int8Linear(weight)(x), torch.full((1, OUTPUTS), float(INPUTS - 1))) < 1e-6
    assert relative_error(Int8Linear(-weight)(x), torch.full((1, OUTPUTS), 1.0 - INPUTS)) < 1e-6


def test_int4_is_refused_where_torch_has_no_product_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ByteTokenizer(("<|endoftext|>",))
    model = model_of(tiny(vocab_size=tokenizer.vocab_size, context=32))
    monkeypatch.setattr(engine_weights, "has_int4", lambda: False)
    with pytest.raises(WrongUse, match="int4 needs an operation that this torch lacks on this CPU; use int8 or auto"):
        Engine(model, tokenizer, weights="int4")


@NEEDS_INT4
def test_an_engine_generates_with_int4_weights() -> None:
    tokenizer = ByteTokenizer(("<|endoftext|>",))
    model = model_of(tiny(vocab_size=tokenizer.vocab_size, context=32))
    params = DecodeConfig(temperature=0.0, max_tokens=9, ban_end=True)
    engine = Engine(model, tokenizer, weights="int4")
    assert list(engine.stream("Ab", params))[:-1] == list(engine.stream("Ab", params))[:-1]
    assert engine.model.config == model.config
