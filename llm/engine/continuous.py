"""Continuous batching: requests of different lengths and parameters share every forward pass.

A request joins between two tokens of the others and leaves when it has ended (Yu et al. 2022, "Orca", section 3.2). Its
prompt is read in blocks between the decode steps (chunked prefill). A decode step of a small model takes about as long
for many rows as for one. Each row gets the text that `Engine.stream` generates from its prompt, parameters and seed, up
to the rounding of matrix products of different shapes. Unlike there, the text ends when the context is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.engine.batch import max_batch_prompts
from llm.engine.beam import beam_params
from llm.engine.echo import PromptEcho
from llm.engine.ragged import RaggedCache
from llm.engine.reader import BLOCK
from llm.engine.reply import Reason, Sample, draw_tokens
from llm.model.attention import KVCache
from llm.model.packed import InferenceModel
from llm.sampling import LogitsPipeline, SamplingContext, Uniforms, Vocabulary, build_pipeline
from llm.sampling.filters import mirostat_update
from llm.tokenizer.base import Tokenizer

ROWWISE = frozenset(
    {
        "banned_tokens",
        "logit_bias",
        "dynamic_temperature",
        "temperature",
        "top_k",
        "top_n_sigma",
        "typical_p",
        "top_p",
        "min_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "xtc",
        "mirostat",
    }
)
"""Logits processors that read neither the history nor the number of new tokens. Rows of any length that use only these,
with equal parameters, share a call of the pipeline."""


@dataclass(frozen=True)
class Request:
    """`params.num_samples` texts to generate from the tokens `prompt`.

    `top_logprobs`: how many of the most likely tokens to report with each token. With `echo`, the tokens of the prompt
    are reported first, and `params.max_tokens` may be 0.
    """

    prompt: tuple[int, ...]
    params: DecodeConfig
    top_logprobs: int = 0
    echo: bool = False


@dataclass(frozen=True)
class NewToken:
    """One token of one sample of a request, and the whole characters it completes.

    `logprob`: its log-probability in nats before the logits pipeline, None for the first token of a prompt; `top`: the
    most likely tokens and their log-probabilities. `reason` is set on a sample's last token.
    """

    request: Request
    sample: int
    token_id: int
    text: str
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    reason: Reason
    is_prompt: bool = False


class Row:
    """One sample of a request while it is generated."""

    def __init__(
        self, request: Request, sample: int, limit: int, pipeline: LogitsPipeline, vocabulary: Vocabulary
    ) -> None:
        params = request.params
        self.request, self.sample, self.limit, self.pipeline = request, sample, limit, pipeline
        self.tokens = list(request.prompt)
        self.text = Sample(vocabulary.tokenizer, request.prompt, params)
        self.uniforms = Uniforms(params.seed, 1, vocabulary.device, first=sample)
        self.mu = torch.full((1,), 2 * params.mirostat_tau, device=vocabulary.device)
        pipeline_params = replace(params, seed=0, num_samples=1, max_tokens=1, max_total_tokens=0, stop=())
        active = {name for name, is_active, _ in pipeline.describe() if is_active}
        if params.ban_end:
            active.discard("min_tokens")  # it bans the stop tokens at any number of new tokens
        self.group: object = pipeline_params if active <= ROWWISE else self
        """Rows of equal groups are sampled together."""


class ContinuousBatch:
    """Answers requests with one model at the same time. Not thread-safe."""

    def __init__(self, model: InferenceModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context = model.config.context
        self.max_rows = max_batch_prompts(model, 1)
        self._vocabulary = Vocabulary(tokenizer, model.head_weight.device)
        device, dtype = model.head_weight.device, model.cache_dtype
        self._cache = RaggedCache(model.config, self.max_rows, device=device, dtype=dtype)
        self._prefill = KVCache(model.config, 1, device=device, dtype=dtype)
        self._joining: deque[list[Row]] = deque()
        self._echo: PromptEcho | None = None
        self._echoed: list[NewToken] = []
        self._rows: list[Row] = []

    @property
    def is_empty(self) -> bool:
        return not self._rows and not self._joining

    @property
    def requests(self) -> list[Request]:
        """The requests that have not ended, each once."""
        rows = [*self._rows, *(row for rows in self._joining for row in rows)]
        return list({id(row.request): row.request for row in rows}.values())

    def has_room(self, request: Request) -> bool:
        """Whether the rows of `request` fit into the batch."""
        waiting = sum(len(rows) for rows in self._joining)
        return len(self._rows) + waiting + request.params.num_samples <= self.max_rows

    def add(self, request: Request) -> None:
        """Answer `request` in the following steps. There must be room, and its prompt must be shorter than the context.

        ConfigError if its parameters name an unknown token or processor.
        """
        request_params = beam_params(request.params) if request.params.beams > 1 else request.params
        pipeline = build_pipeline(request_params, self._vocabulary)
        limit = min(request.params.max_tokens, self.context - len(request.prompt))
        samples = range(request.params.num_samples)
        self._joining.append([Row(request, sample, limit, pipeline, self._vocabulary) for sample in samples])

    def cancel(self, request: Request) -> None:
        """Drop the rows of `request`, if it has not ended."""
        if self._joining and self._joining[0][0].request is request:
            self._prefill.truncate(0)
            self._echo = None
        self._joining = deque(rows for rows in self._joining if rows[0].request is not request)
        for index in reversed(range(len(self._rows))):
            if self._rows[index].request is request:
                self._remove(index)

    @torch.no_grad()
    def step(self) -> list[NewToken]:
        """Generate one token for every row, and prefill about `BLOCK` tokens of the waiting prompts."""
        self._echoed = []
        decoded = self._decode() if self._rows else []
        logits = [*decoded, *self._read_prompts()]
        return self._echoed + (self._sample(torch.cat(logits)[:, : self._vocabulary.size]) if logits else [])

    def _decode(self) -> list[Tensor]:
        """Logits (rows, V) after the last token of every row."""
        self._cache.prepare()
        tokens = torch.tensor([[row.tokens[-1]] for row in self._rows], device=self._vocabulary.device)
        return [self.model(tokens, self._cache, last_only=True)[:, -1]]

    def _read_prompts(self) -> Iterator[Tensor]:
        """Prefill waiting prompts in blocks, as `Reader` does. Yields the logits (rows, V) of each completed one."""
        budget = BLOCK
        while self._joining and budget > 0:
            rows = self._joining[0]
            request, done = rows[0].request, self._prefill.length
            block = request.prompt[done : done + BLOCK]
            tokens = torch.tensor([block], device=self._vocabulary.device)
            logits = self.model(tokens, self._prefill, last_only=not request.echo)
            budget -= len(block)
            if request.echo:
                self._echo = self._echo or PromptEcho(self.tokenizer, request.top_logprobs)
                self._echo.read(block, logits[0, :, : self._vocabulary.size])
            if self._prefill.length < len(request.prompt):
                continue
            self._joining.popleft()
            self._echo_prompt(rows)
            running = [row for row in rows if row.limit]
            for row in running:
                self._cache.append(self._prefill)
                self._rows.append(row)
            self._prefill.truncate(0)
            if running:
                yield logits[:, -1].expand(len(running), -1)

    def _echo_prompt(self, rows: Sequence[Row]) -> None:
        """Report the tokens of the prompt as the first ones of `rows`, if their request has `echo`."""
        echo, self._echo = self._echo, None
        if echo is None:
            return
        for row in rows:
            for token_id, text, logprob, top in echo.tokens:
                token = NewToken(row.request, row.sample, token_id, text, logprob, top, "", is_prompt=True)
                self._echoed.append(token)
            if not row.limit:
                self._echoed[-1] = replace(self._echoed[-1], reason="length")

    def _sample(self, logits: Tensor) -> list[NewToken]:
        """Sample a token of every row from logits (rows, V), and remove the rows that have ended."""
        groups: dict[object, list[int]] = {}
        for index, row in enumerate(self._rows):
            groups.setdefault(row.group, []).append(index)
        tokens = torch.empty(len(self._rows), dtype=torch.int64, device=logits.device)
        for indices in groups.values():
            tokens[indices] = self._draw([self._rows[index] for index in indices], logits[indices])
        log_p = torch.log_softmax(logits, dim=-1)
        logprobs = log_p.gather(1, tokens.unsqueeze(-1)).squeeze(-1).tolist()
        tops = self._most_likely(log_p)
        new_tokens = [
            self._accept(row, token, logprob, top)
            for row, token, logprob, top in zip(self._rows, tokens.tolist(), logprobs, tops, strict=True)
        ]
        for index in reversed(range(len(new_tokens))):
            if new_tokens[index].reason:
                self._remove(index)
        return new_tokens

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        """Tokens (rows,) of rows of one group from logits (rows, V)."""
        first = rows[0]
        draw_uniform, uniform = torch.cat([row.uniforms.next() for row in rows]).unbind(-1)
        history = [row.tokens for row in rows] if first.group is first else [[] for _ in rows]
        generated = len(first.tokens) - len(first.request.prompt)
        mu = torch.cat([row.mu for row in rows])
        ctx = SamplingContext(torch.tensor(history, dtype=torch.int64, device=logits.device), generated, uniform, mu)
        tokens, probability = draw_tokens(first.pipeline, logits, ctx, draw_uniform)
        params = first.pipeline.params
        if params.mirostat_tau > 0:
            updated = mirostat_update(mu, probability, params.mirostat_tau, params.mirostat_eta)
            for row, value in zip(rows, updated.split(1), strict=True):
                row.mu = value
        return tokens

    def _most_likely(self, log_p: Tensor) -> list[tuple[tuple[int, float], ...]]:
        """The `top_logprobs` most likely tokens of each row, from log-probabilities (rows, V)."""
        wanted = [min(row.request.top_logprobs, log_p.shape[-1]) for row in self._rows]
        if not any(wanted):
            return [()] * len(wanted)
        values, ids = torch.topk(log_p, max(wanted), dim=-1)
        pairs = zip(wanted, ids.tolist(), values.tolist(), strict=True)
        return [tuple(zip(row_ids[:count], row_values[:count], strict=True)) for count, row_ids, row_values in pairs]

    def _accept(self, row: Row, token: int, logprob: float, top: tuple[tuple[int, float], ...]) -> NewToken:
        row.tokens.append(token)
        text = row.text.accept(token, row.request.params, row.limit)
        return NewToken(row.request, row.sample, token, text, logprob, top, row.text.reason)

    def _remove(self, index: int) -> None:
        """Remove a row; the last one takes its place, as in the cache."""
        self._cache.remove(index)
        last = self._rows.pop()
        if index < len(self._rows):
            self._rows[index] = last


def run_requests(batch: ContinuousBatch, requests: Iterable[Request]) -> Iterator[NewToken]:
    """Answer all requests, as many at a time as have room. Yields their tokens as they are generated.

    No request may have more samples than `batch.max_rows`.
    """
    waiting = deque(requests)
    while waiting or not batch.is_empty:
        while waiting and batch.has_room(waiting[0]):
            batch.add(waiting.popleft())
        yield from batch.step()
