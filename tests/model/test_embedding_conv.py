"""The convolution over the embeddings against torch's, and how it starts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from llm.model.embedding_conv import add_earlier_tokens
from llm.optim.build import group_of
from tests.model.models_for_tests import built, relative_error, tiny


def test_is_a_causal_depthwise_convolution_with_a_residual() -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight, earlier = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((2, 11, 7), (3, 7), (2, 3, 7))
    )
    kernel = weight.flip(0).T.unsqueeze(1)  # torch's last tap is the nearest
    expected = x + F.conv1d(torch.cat((earlier, x), dim=1).mT[..., :-1], kernel, groups=7).mT
    assert relative_error(add_earlier_tokens(x, earlier, weight), expected) < 1e-12
    text = torch.cat((torch.zeros_like(earlier), x), dim=1)
    expected = x + F.conv1d(text.mT[..., :-1], kernel, groups=7).mT
    assert relative_error(add_earlier_tokens(x, None, weight), expected) < 1e-12


def test_starts_as_random_signs_and_is_trained_as_a_vector() -> None:
    weight = built(tiny(d_model=200, embedding_conv=5), spread=False).embedding_conv.weight  # type: ignore[union-attr]
    assert weight.shape == (4, 200)
    assert torch.equal(weight.abs(), torch.ones(4, 200)) and float(weight.mean().abs()) < 0.15
    assert group_of("embedding_conv.weight", 2) == "vectors"
