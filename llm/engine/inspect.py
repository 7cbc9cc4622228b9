"""Looking into a reply: the distribution that each of its tokens was drawn from, and what each transformation did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm.config.schema import DecodeConfig
from llm.engine.reader import Reader, window_start
from llm.model.packed import ReadingModel
from llm.sampling import Moment, Stack, Stage, Uniforms, Vocabulary, build_stack, explain
from llm.sampling.filters import mirostat_update


@torch.no_grad()
def explain_next(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    written: Sequence[int],
    knobs: DecodeConfig,
    *,
    top: int,
    also: Sequence[int],
) -> list[Stage]:
    """The distribution after `prompt` and the tokens `written` since, before and after each transformation.

    It is the one that the next token of that reply is drawn from: with the same window of the context, the same coin
    of the same seed, and mirostat as far as those tokens have moved it. `also`: tokens to be shown in any case.
    """
    stack = build_stack(knobs, vocabulary)
    first = 0 if knobs.mirostat_tau > 0 else len(written)
    *_, (logits, now) = moments(reader, vocabulary, prompt, [*written, None], knobs, stack, first)
    return explain(stack, logits, now, top=top, also=also)


@torch.no_grad()
def explain_each(
    reader: Reader, vocabulary: Vocabulary, prompt: Sequence[int], written: Sequence[int], knobs: DecodeConfig, top: int
) -> Iterator[list[Stage]]:
    """`explain_next` for each of the tokens `written`, in one go through the text."""
    stack = build_stack(knobs, vocabulary)
    for token, (logits, now) in zip(
        written, moments(reader, vocabulary, prompt, written, knobs, stack, 0), strict=True
    ):
        yield explain(stack, logits, now, top=top, also=[token])


def moments(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    written: Sequence[int | None],
    knobs: DecodeConfig,
    stack: Stack,
    first: int,
) -> Iterator[tuple[Tensor, Moment]]:
    """What each token of `written` from number `first` on was drawn from; the last may be None, for one to come."""
    uniforms = Uniforms(knobs.seed, 1, vocabulary.device)
    tokens = [*prompt, *(token for token in written if token is not None)]
    text = torch.tensor([tokens], device=vocabulary.device)
    mu = torch.full((1,), 2 * knobs.mirostat_tau, device=vocabulary.device)
    for count, token in enumerate(written):
        coin = uniforms.next()[:, 1]
        if count < first:
            continue
        logits, now = _moment(reader, vocabulary, prompt, text, count, coin, mu)
        yield logits, now
        if knobs.mirostat_tau > 0 and token is not None:
            mu = mirostat_update(mu, _probability(stack, logits, now, token), knobs.mirostat_tau, knobs.mirostat_eta)


def _moment(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    text: Tensor,
    count: int,
    coin: Tensor,
    mu: Tensor,
) -> tuple[Tensor, Moment]:
    """Logits (1, V) after `count` new tokens of `text` (1, T), and what the transformations look at besides."""
    length = len(prompt) + count
    start = window_start(length, len(prompt), reader.context)
    so_far = text[:, :length]
    reader.begin(so_far[0].tolist(), start)
    logits = reader.read(so_far, start)[:, : vocabulary.size]
    return logits, Moment(so_far, count, coin, mu)


def _probability(stack: Stack, logits: Tensor, now: Moment, token: int) -> Tensor:
    """(1,): how likely `token` was once the stack was through."""
    return torch.softmax(stack(logits, now), dim=-1)[:, token]


@torch.no_grad()
def next_logits(model: ReadingModel, prompt: Sequence[int], written: Sequence[int], size: int) -> Tensor:
    """Logits (len(written), size) that each token of `written` was drawn from, as the model gave them.

    The text is read once per window of the context that its tokens were drawn in: once, where it fits.
    """
    text = [*prompt, *written]
    device = model.head_weight.device
    found: list[Tensor] = []
    starts = [window_start(len(prompt) + at, len(prompt), model.config.context) for at in range(len(written))]
    first = 0
    while first < len(written):
        start = starts[first]
        last = max(at for at in range(first, len(written)) if starts[at] == start)
        window = torch.tensor([text[start : len(prompt) + last]], device=device)
        found.append(model(window)[0, len(prompt) + first - 1 - start :, :size])
        first = last + 1
    return torch.cat(found) if found else torch.empty(0, size, device=device)
