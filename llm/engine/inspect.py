"""Looking into a reply: the distribution that each of its tokens was drawn from, and what each transformation did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm.config.schema import DecodeConfig
from llm.engine.reader import Reader, window_start
from llm.model.packed import ReadingModel
from llm.sampling import LogitsPipeline, SamplingContext, Stage, Uniforms, Vocabulary, build_pipeline, explain
from llm.sampling.filters import mirostat_update


@torch.no_grad()
def explain_next(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    written: Sequence[int],
    params: DecodeConfig,
    *,
    top: int,
    also: Sequence[int],
) -> list[Stage]:
    """The distribution after `prompt` and the tokens `written` since, before and after each transformation.

    It is the one that the next token of that reply is drawn from: with the same window of the context, the same coin
    of the same seed, and mirostat as far as those tokens have moved it. `also`: tokens to be shown in any case.
    """
    pipeline = build_pipeline(params, vocabulary)
    first = 0 if params.mirostat_tau > 0 else len(written)
    *_, (logits, ctx) = sampling_contexts(reader, vocabulary, prompt, [*written, None], params, pipeline, first)
    return explain(pipeline, logits, ctx, top=top, also=also)


@torch.no_grad()
def explain_each(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    written: Sequence[int],
    params: DecodeConfig,
    top: int,
) -> Iterator[list[Stage]]:
    """`explain_next` for each of the tokens `written`, in one go through the text."""
    pipeline = build_pipeline(params, vocabulary)
    for token, (logits, ctx) in zip(
        written, sampling_contexts(reader, vocabulary, prompt, written, params, pipeline, 0), strict=True
    ):
        yield explain(pipeline, logits, ctx, top=top, also=[token])


def sampling_contexts(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    written: Sequence[int | None],
    params: DecodeConfig,
    pipeline: LogitsPipeline,
    first: int,
) -> Iterator[tuple[Tensor, SamplingContext]]:
    """What each token of `written` from number `first` on was drawn from; the last may be None, for one to come."""
    uniforms = Uniforms(params.seed, 1, vocabulary.device)
    tokens = [*prompt, *(token for token in written if token is not None)]
    text = torch.tensor([tokens], device=vocabulary.device)
    mu = torch.full((1,), 2 * params.mirostat_tau, device=vocabulary.device)
    for count, token in enumerate(written):
        uniform = uniforms.next()[:, 1]
        if count < first:
            continue
        logits, ctx = _sampling_context(reader, vocabulary, prompt, text, count, uniform, mu)
        yield logits, ctx
        if params.mirostat_tau > 0 and token is not None:
            mu = mirostat_update(
                mu, _probability(pipeline, logits, ctx, token), params.mirostat_tau, params.mirostat_eta
            )


def _sampling_context(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    text: Tensor,
    count: int,
    uniform: Tensor,
    mu: Tensor,
) -> tuple[Tensor, SamplingContext]:
    """Logits (1, V) after `count` new tokens of `text` (1, T), and what the transformations look at besides."""
    length = len(prompt) + count
    start = window_start(length, len(prompt), reader.context)
    so_far = text[:, :length]
    reader.begin(so_far[0].tolist(), start)
    logits = reader.read(so_far, start)[:, : vocabulary.size]
    return logits, SamplingContext(so_far, count, uniform, mu)


def _probability(pipeline: LogitsPipeline, logits: Tensor, ctx: SamplingContext, token: int) -> Tensor:
    """(1,): how likely `token` was once the stack was through."""
    return torch.softmax(pipeline(logits, ctx), dim=-1)[:, token]


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
