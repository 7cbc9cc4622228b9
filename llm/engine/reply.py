"""Replies: sample the tokens of one or several rows, and decode the text of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.engine.lookup import LookupReader
from llm.engine.reader import Canceled, Reader, window_start
from llm.sampling import LogitsPipeline, SamplingContext, StopStrings, Uniforms, Vocabulary, build_pipeline, draw
from llm.sampling.filters import mirostat_update
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.stream import StreamDecoder

Reason = Literal["", "stop", "length", "cancelled"]
"""Why a text ends. "cancelled" is spelled as in saved conversations."""

MAX_CHARACTER_BYTES = 4
"""The longest character in UTF-8."""


@dataclass(frozen=True)
class Piece:
    """One token of one sample, and the whole characters it completes.

    `logprob`: its log-probability in nats before the logits pipeline, `probability`: after it; beam search reports both
    after it. `context_used` tokens are in the model's window, `dropped` older ones are not. `reason` is set on a
    sample's last piece. `token_id` is None on a piece without a token: the buffered text of a canceled reply, or the
    progress of `best_of`.
    """

    sample: int
    token_id: int | None
    text: str
    logprob: float = 0.0
    probability: float = 1.0
    context_used: int = 0
    dropped: int = 0
    reason: Reason = ""


@dataclass(frozen=True)
class Done:
    """The end of a reply. `tokens`: new tokens of all samples; `reused`: prompt tokens found in the KV cache.

    `tokens_per_second` excludes the first token of each sample, whose time includes the prefill
    (`time_to_first_token`, in seconds). `context_used` and `dropped` as in `Piece`, for the longest sample.
    """

    reasons: tuple[Reason, ...]
    tokens: int
    prompt_tokens: int
    seconds: float
    time_to_first_token: float
    tokens_per_second: float
    context_used: int
    dropped: int
    reused: int

    @property
    def reason(self) -> Reason:
        """Why the first sample ended."""
        return self.reasons[0]

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        prompt_tokens: int,
        length: int,
        context: int,
        seconds: float,
        *,
        first: float,
        reused: int,
    ) -> Done:
        """The end of a reply whose longest row has `length` tokens. `first`: seconds to the first new token."""
        tokens = sum(sample.tokens for sample in samples)
        later = max(0, tokens - len(samples))
        dropped = window_start(length, prompt_tokens, context)
        return cls(
            reasons=tuple(sample.reason for sample in samples),
            tokens=tokens,
            prompt_tokens=prompt_tokens,
            seconds=seconds,
            time_to_first_token=first,
            tokens_per_second=later / (seconds - first) if later and seconds > first else 0.0,
            context_used=length - dropped,
            dropped=dropped,
            reused=reused,
        )


def draw_tokens(
    pipeline: LogitsPipeline, logits: Tensor, ctx: SamplingContext, draw_uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample a token per row of `logits` (B, V) with `draw_uniform` (B,) in [0, 1).

    Returns tokens (B,) int64, and their probabilities (B,) after the pipeline.
    """
    probabilities = torch.softmax(pipeline(logits, ctx), dim=-1)
    tokens = draw(probabilities, draw_uniform)
    return tokens, probabilities.gather(1, tokens.unsqueeze(-1)).squeeze(-1)


def token_limit(params: DecodeConfig, prompt_tokens: int) -> int:
    """The maximum number of new tokens."""
    total = params.max_total_tokens
    return min(params.max_tokens, total - prompt_tokens) if total else params.max_tokens


class Sample:
    """The text of one row: decodes its tokens, finds stop strings, and records why it ended."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], params: DecodeConfig) -> None:
        self._stop_ids = tokenizer.stop_ids
        self._decoder = StreamDecoder(tokenizer, continuing=True)
        for token in prompt[-MAX_CHARACTER_BYTES:]:
            self._decoder.feed(token)  # the prompt may end in an incomplete character
        self._stops = StopStrings(params.stop)
        self.tokens = 0
        self.reason: Reason = ""

    def accept(self, token: int, params: DecodeConfig, limit: int) -> str:
        """Append a token; returns the text that can now be shown. The sample ends with `limit` tokens."""
        self.tokens += 1
        text = ""
        if token in self._stop_ids:
            self.reason = "stop"
        else:
            text = self._until_stop(self._decoder.feed(token), params)
            if not self.reason and self.tokens >= limit:
                self.reason = "length"
        return text + (self.flush() if self.reason else "")

    def flush(self) -> str:
        """The buffered text: an incomplete character, or the possible beginning of a stop string."""
        return "" if self._stops.found else self._stops.feed(self._decoder.finish()) + self._stops.finish()

    def _until_stop(self, text: str, params: DecodeConfig) -> str:
        if self.tokens < params.min_tokens:
            return self._stops.finish() + text
        self._stops.set_stops(params.stop)
        text = self._stops.feed(text)
        if self._stops.found:
            self.reason = "stop"
        return text


class Reply:
    """Generates `num_samples` samples for each of one or several prompts of equal length.

    Row i belongs to prompt i // num_samples. Sample i of a prompt does not depend on the batch. `reader` has one row
    for a single prompt, which it reads once, and all rows for several prompts. The caller keeps it. ConfigError if
    `params` name an unknown token or logits processor.
    """

    def __init__(
        self,
        reader: Reader | LookupReader,
        vocabulary: Vocabulary,
        prompts: Sequence[Sequence[int]],
        params: DecodeConfig,
        num_samples: int,
    ) -> None:
        rows = [list(prompt) for prompt in prompts for _ in range(num_samples)]
        self._reader, self._vocabulary, self._params = reader, vocabulary, params
        self._prompt, self._num_prompts = rows[0], len(prompts)
        self._pipeline = build_pipeline(params, vocabulary)
        self._samples = [Sample(vocabulary.tokenizer, row, params) for row in rows]
        self._uniforms = Uniforms(params.seed, num_samples, vocabulary.device, copies=len(prompts))
        self._tokens = torch.tensor(rows, device=vocabulary.device)
        self._mu = torch.full((len(rows),), 2 * params.mirostat_tau, device=vocabulary.device)
        self._generated = 0

    def run(self, cancel: Callable[[], bool], params_source: Callable[[], DecodeConfig]) -> Iterator[Piece | Done]:
        """Yield a Piece per token and row as it is sampled, then Done; the arguments are those of `Engine.stream`."""
        began = time.perf_counter()
        first = 0.0
        reused = self._reader.begin(self._prompt, self._start)
        try:
            logits = self._read_prompt(cancel)
            while not cancel():
                self._set_params(params_source())
                sampled = self._sample(logits)
                first = first or time.perf_counter() - began
                yield from self._pieces(sampled)
                if all(sample.reason for sample in self._samples):
                    break
                if not cancel():
                    logits = self._reader.read(self._tokens, self._start, cancel)
        except Canceled:
            pass  # the unfinished samples end as canceled
        yield from self._cancel_unfinished()
        seconds, length = time.perf_counter() - began, self._tokens.shape[1]
        yield Done.of(
            self._samples, len(self._prompt), length, self._reader.context, seconds, first=first, reused=reused
        )

    @property
    def _start(self) -> int:
        """Index of the first token in the model's window."""
        return window_start(self._tokens.shape[1], len(self._prompt), self._reader.context)

    def _read_prompt(self, cancel: Callable[[], bool]) -> Tensor:
        """Logits (rows, V) of the first new token; a single prompt is read once for all of its samples."""
        if self._num_prompts > 1:
            return self._reader.read(self._tokens, self._start, cancel)
        logits = self._reader.read(self._tokens[:1], self._start, cancel)
        if len(self._samples) > 1 and isinstance(self._reader, Reader):
            self._reader = self._reader.expand(len(self._samples))
        return logits.expand(len(self._samples), -1)

    def _set_params(self, params: DecodeConfig) -> None:
        if params == self._params:
            return
        if params.mirostat_tau != self._params.mirostat_tau:
            self._mu = torch.full_like(self._mu, 2 * params.mirostat_tau)
        self._pipeline = build_pipeline(params, self._vocabulary)
        self._params = params

    @torch.no_grad()
    def _sample(self, logits: Tensor) -> list[tuple[int, float, float]]:
        """Sample and append a token per row; returns (token, logprob, probability) of each.

        This is the only synchronization with the host per token.
        """
        logits = logits[:, : self._vocabulary.size]
        draw_uniform, uniform = self._uniforms.next().unbind(-1)
        ctx = SamplingContext(self._tokens, self._generated, uniform, self._mu)
        tokens, probability = draw_tokens(self._pipeline, logits, ctx, draw_uniform)
        column = tokens.unsqueeze(-1)
        logprob = torch.log_softmax(logits, dim=-1).gather(1, column).squeeze(-1)
        if self._params.mirostat_tau > 0:
            self._mu = mirostat_update(self._mu, probability, self._params.mirostat_tau, self._params.mirostat_eta)
        self._tokens = torch.cat((self._tokens, column), dim=1)
        self._generated += 1
        numbers = torch.stack((logprob, probability), dim=-1)
        return [(token, *pair) for token, pair in zip(tokens.tolist(), numbers.tolist(), strict=True)]

    def _pieces(self, sampled: list[tuple[int, float, float]]) -> Iterator[Piece]:
        limit = token_limit(self._params, len(self._prompt))
        dropped = self._start
        used = self._tokens.shape[1] - dropped
        for index, (sample, (token, logprob, probability)) in enumerate(zip(self._samples, sampled, strict=True)):
            if not sample.reason:
                text = sample.accept(token, self._params, limit)
                yield Piece(index, token, text, logprob, probability, used, dropped, sample.reason)

    def _cancel_unfinished(self) -> Iterator[Piece]:
        dropped = self._start
        for index, sample in enumerate(self._samples):
            if not sample.reason:
                sample.reason = "cancelled"
                used = self._tokens.shape[1] - dropped
                yield Piece(index, None, sample.flush(), context_used=used, dropped=dropped, reason="cancelled")
