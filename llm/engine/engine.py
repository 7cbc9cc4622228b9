"""The engine: generates text from prompts with one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from llm.config.decode_schema import DecodeConfig, WeightFormat
from llm.engine.batch import Completion, group_by_length, max_batch_prompts
from llm.engine.beam import beam_params, stream_beams
from llm.engine.best import best_first
from llm.engine.inspect import explain_each, explain_next
from llm.engine.lookup import LookupReader, supports_lookup
from llm.engine.prompts import prompt_ids
from llm.engine.reader import Reader
from llm.engine.reply import Done, Piece, Reply
from llm.engine.weights import copy_weights, inference_model, snapshot_model
from llm.errors import UserError, WrongUse
from llm.model.transformer import Transformer
from llm.sampling import LogitsPipeline, Stage, Vocabulary, build_pipeline
from llm.tokenizer.base import Tokenizer


class Engine:
    """Generates text with one model. Not thread-safe.

    The engine uses `model` itself or a copy for inference (`inference_model` says when, `weights` is `decode.weights`)
    and never changes `model`. `refresh` takes over new weights. `weights_version` identifies the weights: the KV cache
    of earlier prompts is reused until it changes. UserError if `tokenizer` has more tokens than the model.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: WeightFormat = "auto",
        weights_version: object = None,
        use_cache: bool = True,
    ) -> None:
        self.model = inference_model(model, device=device, dtype=dtype, weights=weights)
        self.tokenizer = tokenizer
        self.device = self.model.head_weight.device
        self.context = model.config.context
        self.weights, self.weights_version = weights, weights_version
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"The tokenizer has {tokenizer.vocab_size} tokens, but the model has {model.config.vocab_size}; "
                "load the tokenizer the model was trained with."
            )
        self._owns_weights = self.model is not model
        self._use_cache = use_cache
        self._vocabulary = Vocabulary(tokenizer, self.device)
        self._reader: Reader | None = None
        self._refreshes = 0

    def refresh(self, model: Transformer, weights_version: object) -> None:
        """Copy the weights of `model`, unless the engine already has `weights_version`; None always copies.

        If another thread trains `model`, hold its weight lock during the call. Do not call it during a reply.
        """
        if weights_version is not None and weights_version == self.weights_version:
            return
        if self._owns_weights:
            copy_weights(model, self.model)
        else:
            own = self.model.head_weight
            self.model, self._owns_weights = snapshot_model(model, device=own.device, dtype=own.dtype), True
        self.weights_version = weights_version
        self._refreshes += 1
        self._reader = None

    def prompt_ids(self, prompt: str | Sequence[int], params: DecodeConfig) -> list[int]:
        """The tokens of `prompt`; at least one."""
        return prompt_ids(self.tokenizer, prompt, separator_first=params.separator_first)

    def pipeline(self, params: DecodeConfig) -> LogitsPipeline:
        """The logits processors that `params` configure. ConfigError for an unknown token or processor."""
        return build_pipeline(params, self._vocabulary)

    def stream(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        num_samples: int | None = None,
        cancel: Callable[[], bool] = lambda: False,
        params_source: Callable[[], DecodeConfig] | None = None,
    ) -> Iterator[Piece | Done]:
        """Generate text from `prompt`: yields a Piece for each token of each sample, then one Done.

        `cancel` is called before every token and between the blocks of a long prompt. `params_source`, if given, is
        called for the parameters of every token; seed, separator and number of samples do not change during a reply.
        Beam search (`params.beams`) and `params.best_of` yield all tokens at the end. UserError for an invalid prompt
        or parameter, before the first item.
        """
        count = num_samples or params.num_samples
        ids = self.validate_prompt(prompt, replace(params, num_samples=count))
        reader = self._take_reader()
        if params.beams > 1:
            return self._run(stream_beams(reader, self._vocabulary, ids, params, count, cancel), reader)
        rows = max(count, params.best_of)
        max_drafts = params.lookup if rows == 1 and self._use_cache and supports_lookup(self.model) else 0
        source = LookupReader(reader, max_drafts) if max_drafts else reader
        reply = Reply(source, self._vocabulary, [ids], params, rows)
        pieces = reply.run(cancel, params_source or (lambda: params))
        return self._run(best_first(pieces, count) if params.best_of > 1 else pieces, reader)

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        params: DecodeConfig,
        *,
        report: Callable[[int], object] = lambda done: None,
    ) -> list[Completion]:
        """The texts that `stream` generates from each of `prompts`, with prompts of equal length in one batch.

        `report` is called with the number of finished prompts. UserError as in `stream`.
        """
        count = params.num_samples
        ids = [self.validate_prompt(prompt, params) for prompt in prompts]
        max_prompts = 1 if params.beams > 1 or params.best_of > 1 else max_batch_prompts(self.model, count)
        completions: dict[int, Completion] = {}
        for group in group_by_length([len(row) for row in ids], max_prompts):
            if len(group) == 1:
                items = self.stream(ids[group[0]], params)
            else:
                reader = Reader(self.model, len(group) * count, use_cache=self._use_cache)
                reply = Reply(reader, self._vocabulary, [ids[index] for index in group], params, count)
                items = reply.run(lambda: False, lambda: params)
            completions |= zip(group, Completion.from_reply(items, len(group)), strict=True)
            report(len(completions))
        return [completions[index] for index in range(len(ids))]

    def explain(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        generated: Sequence[int] = (),
        top: int = 10,
        also: Sequence[int] = (),
    ) -> list[Stage]:
        """The distribution of the next token after `prompt` and the new tokens `generated`, before and after each
        logits processor (`llm.sampling.explain`)."""
        ids = self.prompt_ids(prompt, params)
        params = beam_params(params) if params.beams > 1 else params
        reader = self._take_reader()
        stages = explain_next(reader, self._vocabulary, ids, generated, params, top=top, also=also)
        self._reader = reader
        return stages

    def explain_each(
        self, prompt: str | Sequence[int], params: DecodeConfig, generated: Sequence[int]
    ) -> Iterator[list[Stage]]:
        """The stages of `explain` for each token of `generated`, with the ten most likely tokens of each stage."""
        reader = self._take_reader()
        yield from explain_each(reader, self._vocabulary, self.prompt_ids(prompt, params), generated, params, top=10)
        self._reader = reader

    def validate_prompt(self, prompt: str | Sequence[int], params: DecodeConfig) -> list[int]:
        """The tokens of `prompt`. UserError if no reply can be generated from it with `params`."""
        ids = self.prompt_ids(prompt, params)
        self.pipeline(params)
        if 1 < params.beams < params.num_samples:
            raise WrongUse(
                f"Beam search with {params.beams} beams cannot return {params.num_samples} samples; raise beams."
            )
        if params.beams > 1 and params.best_of > 1:
            raise WrongUse("Beam search returns the likeliest texts already; set best_of to 1, or beams to 1.")
        if 0 < params.max_total_tokens <= len(ids):
            raise WrongUse(
                f"max_total_tokens is {params.max_total_tokens} and the prompt alone takes {len(ids)}: "
                "no token can be generated; raise the limit or shorten the prompt."
            )
        return ids

    def _run(self, pieces: Iterator[Piece | Done], reader: Reader) -> Iterator[Piece | Done]:
        """Yield `pieces`, then store `reader` for the next prompt, unless the weights changed meanwhile."""
        refreshes = self._refreshes
        try:
            yield from pieces
        finally:
            if refreshes == self._refreshes:
                self._reader = reader

    def _take_reader(self) -> Reader:
        """The reader of the last prompt, or a new one; a reader serves one reply at a time."""
        reader, self._reader = self._reader, None
        return reader or Reader(self.model, use_cache=self._use_cache)
