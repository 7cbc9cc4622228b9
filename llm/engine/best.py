"""Best of n: sample several replies to one prompt and keep the most likely ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llm.engine.reply import Done, Piece


def best_first(items: Iterator[Piece | Done], keep: int) -> Iterator[Piece | Done]:
    """Yield the pieces of the `keep` samples with the highest mean log-probability per token, best first, then Done.

    They come when all samples have ended. Until then, each piece is replaced by one without a token, to show progress.
    """
    samples: dict[int, list[Piece]] = {}
    for item in items:
        if isinstance(item, Piece):
            samples.setdefault(item.sample, []).append(item)
            yield Piece(0, None, "", context_used=item.context_used, dropped=item.dropped)
            continue
        ranked = sorted(samples, key=lambda sample: -mean_logprob(samples[sample]))[:keep]
        for place, sample in enumerate(ranked):
            yield from (replace(piece, sample=place) for piece in samples[sample])
        yield replace(item, reasons=tuple(item.reasons[sample] for sample in ranked))


def mean_logprob(pieces: Sequence[Piece]) -> float:
    """The mean log-probability in nats of a sample's tokens under the model, before the logits pipeline."""
    logprobs = [piece.logprob for piece in pieces if piece.token_id is not None]
    return sum(logprobs) / max(1, len(logprobs))
