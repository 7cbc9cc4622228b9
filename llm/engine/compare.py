"""Compare two models on one prompt and seed: the first difference of their texts, and the KL divergence per token.

Each token is sampled with one uniform number by inverse transform sampling (`llm.sampling.draw`). With the same seed,
similar distributions give the same token, so the first difference comes from the models and not from chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.engine import Engine, Piece
from llm.engine.inspect import next_logits
from llm.engine.reader import shared_length


@dataclass(frozen=True)
class Side:
    """One model's reply. `logprobs`: log-probabilities of its tokens in nats, before the logits pipeline.

    `divergence`: for each of its tokens, KL(this ‖ other) in nats of the two models' distributions given this text up
    to the token. None if the tokenizers differ.
    """

    text: str
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    reason: str
    divergence: tuple[float, ...] | None = None

    @property
    def mean_divergence(self) -> float | None:
        """Nats per token; None without a divergence."""
        return sum(self.divergence) / len(self.divergence) if self.divergence else None


@dataclass(frozen=True)
class Comparison:
    """Two replies to one prompt. `first_token` and `first_character` are the indices of the first difference; None if
    the replies are equal (or, for tokens, if the tokenizers differ)."""

    prompt: str
    sides: tuple[Side, Side]
    same_tokenizer: bool
    first_token: int | None
    first_character: int | None


def compare(
    engines: tuple[Engine, Engine],
    prompt: str,
    params: DecodeConfig,
    *,
    tokens: Sequence[int] = (),
    params_source: Callable[[], Callable[[], DecodeConfig]] | None = None,
    cancel: Callable[[], bool] = lambda: False,
    on_piece: Callable[[int, Piece], object] = lambda side, piece: None,
) -> Comparison:
    """Generate one text with each engine, one after the other, calling `on_piece(side, piece)` for every piece.

    `tokens` replaces the tokenization of the prompt for the first engine. `params_source` is called once per side and
    returns the `params_source` of `Engine.stream`. UserError for an invalid prompt or sampling parameter.
    """
    same = engines[0].tokenizer.fingerprint() == engines[1].tokenizer.fingerprint()
    ids = engines[0].prompt_ids(list(tokens) or prompt, params)
    starts: tuple[list[int], list[int] | str] = (ids, ids if same else prompt)
    first, second = (
        _reply(
            engine,
            start,
            params,
            params_source() if params_source is not None else None,
            cancel,
            lambda piece, side=side: on_piece(side, piece),  # type: ignore[misc]
        )
        for side, (engine, start) in enumerate(zip(engines, starts, strict=True))
    )
    sides = (first, second)
    if same and not cancel():
        sides = (_with_divergence(first, *engines, ids), _with_divergence(second, *engines[::-1], ids))
    return Comparison(
        prompt,
        sides,
        same,
        _first_difference(first.tokens, second.tokens) if same else None,
        _first_difference(first.text, second.text),
    )


def _reply(
    engine: Engine,
    prompt: str | Sequence[int],
    params: DecodeConfig,
    params_source: Callable[[], DecodeConfig] | None,
    cancel: Callable[[], bool],
    on_piece: Callable[[Piece], object],
) -> Side:
    pieces = []
    for item in engine.stream(prompt, params, num_samples=1, cancel=cancel, params_source=params_source):
        if isinstance(item, Piece):
            pieces.append(item)
            on_piece(item)
    generated = [piece for piece in pieces if piece.token_id is not None]
    return Side(
        text="".join(piece.text for piece in pieces),
        tokens=tuple(piece.token_id for piece in generated if piece.token_id is not None),
        texts=tuple(piece.text for piece in generated),
        logprobs=tuple(piece.logprob for piece in generated),
        reason=pieces[-1].reason if pieces else "",
    )


def _with_divergence(side: Side, own: Engine, other: Engine, ids: Sequence[int]) -> Side:
    """`side`, generated after the prompt `ids`, with its divergence from the other model."""
    size = own.tokenizer.vocab_size
    ours, theirs = (next_logits(engine.model, ids, side.tokens, size).cpu() for engine in (own, other))
    values = kl_divergence(ours, theirs).tolist()
    return replace(side, divergence=tuple(values))


def kl_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(P ‖ Q) = Σ P · (ln P − ln Q) in nats (Kullback & Leibler 1951) of logits (N, V) and (N, V): (N,) float64."""
    p, q = torch.log_softmax(logits.double(), dim=-1), torch.log_softmax(others.double(), dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1).clamp(min=0)


def _first_difference(one: tuple[int, ...] | str, other: tuple[int, ...] | str) -> int | None:
    """The first index at which two sequences differ or one ends; None if they are equal."""
    if one == other:
        return None
    return shared_length(one, other)
