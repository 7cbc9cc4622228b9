"""Beam search: find likely continuations instead of sampling them (Graves 2012; Sutskever et al. 2014)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.engine.reader import Canceled, Reader, window_start
from llm.engine.reply import Done, Piece, Sample, token_limit
from llm.sampling import LogitsPipeline, SamplingContext, Vocabulary, build_pipeline


@dataclass(frozen=True)
class Beam:
    """A continuation: its new tokens, including a stop token, their log-probabilities in nats, the sum of these, and
    whether it ends with a stop token."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0
    ended: bool = False

    def score(self, length_penalty: float) -> float:
        """log P / length^length_penalty, as in transformers; lengths and log P are those of the new tokens."""
        return self.total / math.pow(max(1, len(self.tokens)), length_penalty)

    def with_token(self, token: int, logprob: float, ended: bool) -> Beam:
        return Beam((*self.tokens, token), (*self.logprobs, logprob), self.total + logprob, ended)


def beam_params(params: DecodeConfig) -> DecodeConfig:
    """`params` without the parameters of random sampling: temperature, XTC, mirostat."""
    return replace(params, temperature=1.0, dynamic_range=0.0, xtc_probability=0.0, mirostat_tau=0.0)


def stream_beams(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    params: DecodeConfig,
    num_samples: int,
    cancel: Callable[[], bool],
) -> Iterator[Piece | Done]:
    """Run beam search, then yield the pieces of the best `num_samples` continuations, then Done."""
    began = time.perf_counter()
    limit = token_limit(params, len(prompt))
    beams = beam_search(reader, vocabulary, prompt, params, limit, cancel)[:num_samples]
    seconds = time.perf_counter() - began
    samples = [Sample(vocabulary.tokenizer, prompt, params) for _ in beams]
    for index, (beam, sample) in enumerate(zip(beams, samples, strict=True)):
        for count, (token, logprob) in enumerate(zip(beam.tokens, beam.logprobs, strict=True), 1):
            text = sample.accept(token, params, limit)
            length = len(prompt) + count
            dropped = window_start(length, len(prompt), reader.context)
            yield Piece(index, token, text, logprob, math.exp(logprob), length - dropped, dropped, sample.reason)
        if not sample.reason:
            sample.reason = "cancelled"
            yield Piece(index, None, sample.flush(), reason="cancelled")
    length = len(prompt) + len(beams[0].tokens)
    yield Done.of(samples, len(prompt), length, reader.context, seconds, first=seconds, reused=0)


def beam_search(
    reader: Reader,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    params: DecodeConfig,
    limit: int,
    cancel: Callable[[], bool],
) -> list[Beam]:
    """The best continuations of `prompt`, at most `params.beams`, of at most `limit` tokens, best first.

    Log-probabilities are those after the logits pipeline. A continuation that ends (end of text or a stop string) is
    finished if it ranks among the best `beams` of its step. The search ends when `beams` are finished and the best
    running one, scored at its current length, is no better than the worst of them. If canceled, it returns the best
    continuations so far.
    """
    search = _Search(vocabulary, build_pipeline(beam_params(params), vocabulary), prompt, params)
    start = window_start(len(prompt), len(prompt), reader.context)
    reader.begin(prompt, start)
    try:
        logits = reader.read(torch.tensor([list(prompt)], device=vocabulary.device), start, cancel)
        reader = reader.expand(params.beams)
        logits = logits.expand(params.beams, -1)
        for step in range(limit):
            rows = search.step(logits, last=step == limit - 1)
            if search.is_over() or cancel():
                break
            reader.select(rows)
            tokens = search.texts()
            logits = reader.read(tokens, window_start(tokens.shape[1], len(prompt), reader.context), cancel)
    except Canceled:
        pass  # the best continuations so far are the result
    return search.best()


class _Search:
    """The running and the finished beams."""

    def __init__(
        self, vocabulary: Vocabulary, pipeline: LogitsPipeline, prompt: Sequence[int], params: DecodeConfig
    ) -> None:
        self._vocabulary, self._pipeline, self._prompt, self._params = vocabulary, pipeline, list(prompt), params
        self._running = [Beam()]
        self._finished: list[Beam] = []

    @torch.no_grad()
    def step(self, logits: Tensor, *, last: bool) -> Tensor:
        """Extend the running beams by one token, from logits (beams, V).

        Returns the row that each new beam continues, (beams,) int64.
        """
        width, size, alive = self._params.beams, self._vocabulary.size, len(self._running)
        none = torch.zeros(alive, device=logits.device)
        ctx = SamplingContext(self.texts()[:alive], len(self._running[0].tokens), none, none)
        log_p = torch.log_softmax(self._pipeline(logits[:alive, :size], ctx), dim=-1)
        totals = log_p + log_p.new_tensor([beam.total for beam in self._running]).unsqueeze(-1)
        ends = self._vocabulary.tokenizer.stop_ids
        found = torch.topk(totals.flatten(), min(max(2, 1 + len(ends)) * width, totals.numel()))
        chosen = log_p.flatten()[found.indices].tolist()
        running: list[tuple[int, Beam]] = []
        for rank, (place, logprob) in enumerate(zip(found.indices.tolist(), chosen, strict=True)):
            if logprob == -torch.inf:
                break
            row, token = divmod(place, size)
            beam = self._running[row].with_token(token, logprob, token in ends)
            if beam.ended or last or self._has_stop_string(beam):
                self._finished += [beam] if rank < width else []
            elif len(running) < width:
                running.append((row, beam))
        self._finished = self._rank(self._finished)[:width]
        self._running = [beam for _, beam in running]
        rows = [row for row, _ in running]
        return torch.tensor(rows + rows[:1] * (width - len(rows)), dtype=torch.int64, device=logits.device)

    def is_over(self) -> bool:
        """Whether no running beam can still improve the result."""
        if not self._running:
            return True
        penalty = self._params.beam_length_penalty
        full = len(self._finished) == self._params.beams
        return full and self._running[0].score(penalty) <= self._finished[-1].score(penalty)

    def texts(self) -> Tensor:
        """Prompt and continuation of every running beam, (beams, T) int64, padded with copies of the first beam."""
        rows = [self._prompt + list(beam.tokens) for beam in self._running]
        rows += rows[:1] * (self._params.beams - len(rows))
        return torch.tensor(rows, device=self._vocabulary.device)

    def best(self) -> list[Beam]:
        return self._rank(self._finished + ([] if self._finished else self._running))

    def _rank(self, beams: list[Beam]) -> list[Beam]:
        return sorted(beams, key=lambda beam: -beam.score(self._params.beam_length_penalty))

    def _has_stop_string(self, beam: Beam) -> bool:
        """Whether the text contains a stop string; as in sampling, the first `min_tokens` tokens are not searched."""
        if not self._params.stop or len(beam.tokens) < self._params.min_tokens:
            return False
        decode = self._vocabulary.tokenizer.decode
        searched = decode(beam.tokens)[len(decode(beam.tokens[: max(0, self._params.min_tokens - 1)])) :]
        return any(stop in searched for stop in self._params.stop if stop)
