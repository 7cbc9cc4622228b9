"""A model of ours for EleutherAI's lm-evaluation-harness (`lm_eval`, 0.4.13).

Scores are sums of log-probabilities in nats, computed in float32. A context that is too long loses its first tokens.
The harness moves all white space at the end of a context into the continuation; where nothing is left of a context, the
separator takes its place, as for an empty one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llm.config.decode_schema import DecodeConfig
from llm.engine import prompt_ids
from llm.engine.continuous import ContinuousBatch, Request, run_requests
from llm.errors import UserError
from llm.model.loss import IGNORE_INDEX
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer

DEFAULT_NEW_TOKENS = 256  # as in the harness's adapter of transformers

Pair = tuple[Any, list[int], list[int]]
"""(the texts, the tokens of a context, those of its continuation)."""


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """`model`, in evaluation mode, with batches of about `batch_tokens` tokens."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, *, batch_tokens: int = 8192) -> None:
        super().__init__()
        self._model, self._tokenizer, self._batch_tokens = model, tokenizer, batch_tokens
        self._context = model.config.context

    @property
    def eot_token_id(self) -> int:
        """The token before an empty context: the separator, or the first token of a line break without one."""
        return prompt_ids(self._tokenizer, "")[0]

    @property
    def tokenizer_name(self) -> str:
        return str(self._tokenizer.fingerprint())

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        return self._tokenizer.encode(string)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows of the context, each token once."""
        pairs: list[Pair] = []
        counts: list[int] = []
        for (text,) in (request.args for request in requests):
            tokens = self.tok_encode(text)
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self._context, context_len=1)
            found = [(None, *make_disjoint_window(window)) for window in windows]
            pairs += found
            counts.append(len(found))
        scores = iter(self._loglikelihood_tokens(pairs))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **options: Any) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether greedy decoding would give it."""
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        scores: dict[int, tuple[float, bool]] = {}
        for indices in self._batches([len(tokens) for tokens, _ in rows]):
            scores |= zip(indices, self._score([rows[index] for index in indices]), strict=True)
        return [scores[index] for index in range(len(rows))]

    def _row(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[list[int], int]:
        """The tokens to read, and how many of them at the end are scored."""
        tokens = [*(context or [self.prefix_token_id]), *continuation][-self._context - 1 :]
        return tokens, min(len(continuation), len(tokens) - 1)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of rows of similar length, the longest first."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        while order:
            rows = max(1, self._batch_tokens // max(1, lengths[order[0]]))
            yield order[:rows]
            order = order[rows:]

    @torch.no_grad()
    def _score(self, rows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """The scores of one batch, padded on the right, which causal attention ignores."""
        device = self._model.head_weight.device
        width = max(2, *(len(tokens) for tokens, _ in rows))
        tokens = torch.zeros((len(rows), width), dtype=torch.int64)
        targets = torch.full((len(rows), width - 1), IGNORE_INDEX)
        for index, (row, count) in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
            scored = slice(len(row) - 1 - count, len(row) - 1)  # position i predicts token i + 1
            targets[index, scored] = tokens[index, 1:][scored]
        losses, likeliest = self._model.score(tokens[:, :-1].to(device), targets.to(device))
        counts = [count for _, count in rows]
        parts = zip(losses.cpu().double().split(counts), likeliest.cpu().split(counts), strict=True)
        return [(-float(loss.sum()), bool(exact.all())) for loss, exact in parts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context up to its stop strings, at most `max_gen_toks` tokens; greedy by default."""
        submitted = [self._generation(*request.args) for request in requests]
        texts = {id(request): "" for request in submitted}
        for token in run_requests(ContinuousBatch(self._model, self._tokenizer), submitted):
            texts[id(token.request)] += token.text
        return [texts[id(request)] for request in submitted]

    def _generation(self, context: str, options: dict[str, Any]) -> Request:
        count = int(options.get("max_gen_toks", options.get("max_new_tokens", DEFAULT_NEW_TOKENS)))
        if count >= self._context:
            raise UserError(
                f"a task asks for {count} new tokens, and the context has {self._context}; lower its max_gen_toks."
            )
        until = options.get("until") or []
        params = DecodeConfig(
            temperature=float(options.get("temperature", 1.0)) if options.get("do_sample") else 0.0,
            top_p=float(options.get("top_p", 1.0)),
            stop=(until,) if isinstance(until, str) else tuple(until),
            top_k=int(options.get("top_k", 0) or 0),
            max_tokens=count,
        )
        tokens = prompt_ids(self._tokenizer, context)[count - self._context :]
        return Request(tuple(tokens), params)
