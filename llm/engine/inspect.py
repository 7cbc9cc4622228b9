"""Explain a reply: the distribution of each token, before and after every logits processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.engine.reader import Reader, window_start
from llm.model.packed import InferenceModel
from llm.sampling import LogitsPipeline, SamplingContext, Stage, Uniforms, Vocabulary, build_pipeline, explain
from llm.sampling.filters import mirostat_update


@torch.no_grad()
def explain_next(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    generated: Sequence[int],
    params: DecodeConfig,
    *,
    top: int,
    also: Sequence[int],
) -> list[Stage]:
    """The distribution after `prompt` and the new tokens `generated`, before and after each logits processor.

    It is exactly the one that the reply samples its next token from: same context window, same uniform numbers of the
    seed, same mirostat state. `top` and `also` as in `llm.sampling.explain`.
    """
    pipeline = build_pipeline(params, vocabulary)
    first = 0 if params.mirostat_tau > 0 else len(generated)
    *_, (logits, ctx) = sampling_contexts(reader, vocabulary, prompt, [*generated, None], params, pipeline, first)
    return explain(pipeline, logits, ctx, top=top, also=also)


@torch.no_grad()
def explain_each(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    generated: Sequence[int],
    params: DecodeConfig,
    top: int,
) -> Iterator[list[Stage]]:
    """`explain_next` for each token of `generated`, in one pass over the text."""
    pipeline = build_pipeline(params, vocabulary)
    for token, (logits, ctx) in zip(
        generated, sampling_contexts(reader, vocabulary, prompt, generated, params, pipeline, 0), strict=True
    ):
        yield explain(pipeline, logits, ctx, top=top, also=[token])


def sampling_contexts(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    generated: Sequence[int | None],
    params: DecodeConfig,
    pipeline: LogitsPipeline,
    first: int,
) -> Iterator[tuple[Tensor, SamplingContext]]:
    """Logits (1, V) and context of each token of `generated` from index `first` on. The last token may be None: it is
    not sampled yet."""
    uniforms = Uniforms(params.seed, 1, vocabulary.device)
    tokens = [*prompt, *(token for token in generated if token is not None)]
    text = torch.tensor([tokens], device=vocabulary.device)
    mu = torch.full((1,), 2 * params.mirostat_tau, device=vocabulary.device)
    for count, token in enumerate(generated):
        uniform = uniforms.next()[:, 1]
        if count < first:
            continue
        length = len(prompt) + count
        start, so_far = window_start(length, len(prompt), reader.context), text[:, :length]
        reader.begin(so_far[0].tolist(), start)
        logits, ctx = reader.read(so_far, start)[:, : vocabulary.size], SamplingContext(so_far, count, uniform, mu)
        yield logits, ctx
        if params.mirostat_tau > 0 and token is not None:
            probability = torch.softmax(pipeline(logits, ctx), dim=-1)[:, token]
            mu = mirostat_update(mu, probability, params.mirostat_tau, params.mirostat_eta)


@torch.no_grad()
def next_logits(model: InferenceModel, prompt: Sequence[int], generated: Sequence[int], size: int) -> Tensor:
    """The model's logits (len(generated), size) before each token of `generated`.

    There is one forward pass per context window in which the tokens were sampled: one, if the text fits into the
    context.
    """
    text = [*prompt, *generated]
    device = model.head_weight.device
    parts: list[Tensor] = []
    starts = [window_start(len(prompt) + at, len(prompt), model.config.context) for at in range(len(generated))]
    first = 0
    while first < len(generated):
        start = starts[first]
        last = max(at for at in range(first, len(generated)) if starts[at] == start)
        window = torch.tensor([text[start : len(prompt) + last]], device=device)
        parts.append(model(window)[0, len(prompt) + first - 1 - start :, :size])
        first = last + 1
    return torch.cat(parts) if parts else torch.empty(0, size, device=device)
