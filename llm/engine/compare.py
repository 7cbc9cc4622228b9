"""Two models on the same prompt with the same seed: where their texts part, and how far apart their distributions are.

A token is drawn by one uniform number from the inverse of the distribution function (`llm.sampling.draw`), so that with
one seed similar distributions give the same token: the first difference says something about the models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from llm.config.schema import DecodeConfig
from llm.engine import Engine, Piece
from llm.engine.inspect import next_logits


@dataclass(frozen=True)
class Side:
    """One model's reply. `logprobs`: of its tokens, in nats, as the model gave them.

    `divergence`: KL(this ‖ other) in nats before each of its tokens, both models having read this text. None where the
    two have different tokenizers, whose distributions cannot be compared.
    """

    text: str
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    reason: str
    divergence: tuple[float, ...] | None = None

    @property
    def mean_divergence(self) -> float | None:
        """Nats per token; None where it is not known."""
        return sum(self.divergence) / len(self.divergence) if self.divergence else None


@dataclass(frozen=True)
class Comparison:
    """Two replies to one prompt. `first_token` is the number, from 0, of the first token in which they differ,
    `first_character` that of the first character; None where there is none (or, for tokens, no common tokenizer)."""

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
    """Let both write on from `prompt`, one text each, the second after the first; `on_piece(side, piece)` as they do.

    `tokens` are those of the prompt to the first engine, where not those its tokenizer makes of it. Each call of
    `params_source` gives one of them its knobs, as in `Engine.stream`. UserError where the prompt or a knob cannot be.
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
        sides = (_measured(first, *engines, ids), _measured(second, *engines[::-1], ids))
    return Comparison(
        prompt,
        sides,
        same,
        _difference(first.tokens, second.tokens) if same else None,
        _difference(first.text, second.text),
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
    drawn = [piece for piece in pieces if piece.token_id is not None]
    return Side(
        text="".join(piece.text for piece in pieces),
        tokens=tuple(piece.token_id for piece in drawn if piece.token_id is not None),
        texts=tuple(piece.text for piece in drawn),
        logprobs=tuple(piece.logprob for piece in drawn),
        reason=pieces[-1].reason if pieces else "",
    )


def _measured(side: Side, own: Engine, other: Engine, ids: Sequence[int]) -> Side:
    """The side, written after the tokens `ids`, with its divergence from the other model."""
    size = own.tokenizer.vocab_size
    ours, theirs = (next_logits(engine.model, ids, side.tokens, size).cpu() for engine in (own, other))
    values = kl_divergence(ours, theirs).tolist()
    return Side(side.text, side.tokens, side.texts, side.logprobs, side.reason, tuple(values))


def kl_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(P ‖ Q) = Σ P · (ln P − ln Q) in nats (Kullback & Leibler 1951) of logits (N, V) and (N, V): (N,) float64."""
    p, q = torch.log_softmax(logits.double(), dim=-1), torch.log_softmax(others.double(), dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1).clamp(min=0)


def _difference(one: tuple[int, ...] | str, other: tuple[int, ...] | str) -> int | None:
    """The first place in which two sequences differ, one of which may also end there; None if they are equal."""
    if one == other:
        return None
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
