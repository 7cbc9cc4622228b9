"""From a prompt to text: one model, what it has read, and the replies it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from llm.config.schema import DecodeConfig
from llm.engine.batch import Completion, group_by_length, max_batch_prompts
from llm.engine.beam import beam_params, stream_beams
from llm.engine.inspect import explain_each, explain_next
from llm.engine.prompts import prompt_ids
from llm.engine.reader import Reader
from llm.engine.reply import Done, Piece, Reply
from llm.engine.weights import copy_weights, reading_model, snapshot_model
from llm.errors import UserError, WrongUse
from llm.model.transformer import Transformer
from llm.sampling import LogitsPipeline, Stage, Vocabulary, build_pipeline
from llm.tokenizer.base import Tokenizer


class Engine:
    """Talks with one model. Not for two threads at once.

    A model in training mode, or not yet on `device` and in `dtype`, is copied, never changed, and so is a large one
    that can be laid out for faster reading (`reading_model`); `refresh` brings the copy up to date. `weights_version`
    names the weights: what was read of earlier prompts is kept as long as it stays.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights_version: object = None,
        use_cache: bool = True,
    ) -> None:
        self.model = reading_model(model, device=device, dtype=dtype)
        self.tokenizer = tokenizer
        self.device = self.model.head_weight.device
        self.context = model.config.context
        self.weights_version = weights_version
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"The tokenizer has {tokenizer.vocab_size} tokens and the model knows {model.config.vocab_size}; "
                "load the tokenizer the model was trained with."
            )
        self._owns_weights = self.model is not model
        self._use_cache = use_cache
        self._vocabulary = Vocabulary(tokenizer, self.device)
        self._kept: Reader | None = None
        self._weights_changed = 0

    def refresh(self, model: Transformer, weights_version: object) -> None:
        """Take over the weights of `model`, unless they are those of `weights_version` already held.

        Where another thread trains `model`, hold its weight lock during the call. Not while a reply is under way.
        """
        if weights_version is not None and weights_version == self.weights_version:
            return
        if self._owns_weights:
            copy_weights(model, self.model)
        else:
            own = self.model.head_weight
            self.model, self._owns_weights = snapshot_model(model, device=own.device, dtype=own.dtype), True
        self.weights_version = weights_version
        self._weights_changed += 1
        self._kept = None

    def prompt_ids(self, prompt: str | Sequence[int], params: DecodeConfig) -> list[int]:
        """The tokens a reply to `prompt` begins with; at least one."""
        return prompt_ids(self.tokenizer, prompt, separator_first=params.separator_first)

    def pipeline(self, params: DecodeConfig) -> LogitsPipeline:
        """The transformations that `params` ask for, to be shown."""
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
        """Write on from `prompt`: a Piece per token and sample as it is drawn, then one Done.

        `cancel` is asked before every token, and between the blocks of a long prompt. `params_source`, where given, is
        asked for the knobs before every token; seed, separator and the number of samples stay those of the beginning.
        Beam search (`params.beams`) gives all its pieces at the end. UserError where the prompt or a knob cannot be.
        """
        count = num_samples or params.num_samples
        ids = self.checked_ids(prompt, replace(params, num_samples=count))
        reader = self._take_reader()
        if params.beams > 1:
            return self._run(stream_beams(reader, self._vocabulary, ids, params, count, cancel), reader)
        reply = Reply(reader, self._vocabulary, [ids], params, count)
        return self._run(reply.run(cancel, params_source or (lambda: params)), reader)

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        params: DecodeConfig,
        *,
        report: Callable[[int], object] = lambda done: None,
    ) -> list[Completion]:
        """What `stream` writes on from each of `prompts`, those of equal length side by side. Errors as there.

        `report` is told how many of them are done.
        """
        count = params.num_samples
        ids = [self.checked_ids(prompt, params) for prompt in prompts]
        max_prompts = 1 if params.beams > 1 else max_batch_prompts(self.model, count)
        found: dict[int, Completion] = {}
        for group in group_by_length([len(row) for row in ids], max_prompts):
            if len(group) == 1:
                items = self.stream(ids[group[0]], params)
            else:
                reader = Reader(self.model, len(group) * count, use_cache=self._use_cache)
                reply = Reply(reader, self._vocabulary, [ids[index] for index in group], params, count)
                items = reply.run(lambda: False, lambda: params)
            found |= zip(group, Completion.from_reply(items, len(group)), strict=True)
            report(len(found))
        return [found[index] for index in range(len(ids))]

    def explain(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        written: Sequence[int] = (),
        top: int = 10,
        also: Sequence[int] = (),
    ) -> list[Stage]:
        """The distribution that the token after `prompt` and the new tokens `written` is drawn from, before and after
        each transformation. Every stage shows its `top` likeliest tokens, and the tokens `also`."""
        ids = self.prompt_ids(prompt, params)
        params = beam_params(params) if params.beams > 1 else params
        reader = self._take_reader()
        stages = explain_next(reader, self._vocabulary, ids, written, params, top=top, also=also)
        self._kept = reader
        return stages

    def explain_each(
        self, prompt: str | Sequence[int], params: DecodeConfig, written: Sequence[int], *, top: int = 10
    ) -> Iterator[list[Stage]]:
        """What `explain` says of each of the tokens `written` after `prompt`."""
        reader = self._take_reader()
        yield from explain_each(reader, self._vocabulary, self.prompt_ids(prompt, params), written, params, top)
        self._kept = reader

    def checked_ids(self, prompt: str | Sequence[int], params: DecodeConfig) -> list[int]:
        """The tokens of `prompt`. UserError unless a reply can be written to it with these knobs."""
        ids = self.prompt_ids(prompt, params)
        self.pipeline(params)
        if 1 < params.beams < params.num_samples:
            raise WrongUse(
                f"Beam search over {params.beams} beams cannot give {params.num_samples} texts; raise beams."
            )
        if 0 < params.max_total_tokens <= len(ids):
            raise WrongUse(
                f"max_total_tokens is {params.max_total_tokens} and the prompt alone takes {len(ids)}: "
                "nothing can be written; raise the limit or shorten the prompt."
            )
        return ids

    def _run(self, pieces: Iterator[Piece | Done], reader: Reader) -> Iterator[Piece | Done]:
        """`pieces`, after which `reader` is kept for the next prompt, unless the weights have changed meanwhile."""
        held = self._weights_changed
        try:
            yield from pieces
        finally:
            if held == self._weights_changed:
                self._kept = reader

    def _take_reader(self) -> Reader:
        """The reader of the last prompt, or a new one: two replies under way never share one."""
        reader, self._kept = self._kept, None
        return reader or Reader(self.model, use_cache=self._use_cache)
